// Vectors of the processor's width, small matrix products, threads. Plain C++17 with GCC's vector extensions,
// which Clang knows too: one source for every instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))

template <class T>
struct Simd {
    static constexpr int lanes = VECTOR_BYTES / sizeof(T);
    typedef T vec __attribute__((vector_size(VECTOR_BYTES)));
    typedef T loose __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
    using integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));
};

template <class T>
using Vec = typename Simd<T>::vec;

template <class T>
INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename Simd<T>::loose*>(p);
}

template <class T>
INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<typename Simd<T>::loose*>(p) = v;
}

template <class T>
INLINE void add(T* p, Vec<T> v) {
    store(p, load(p) + v);
}

// The sum of a vector's elements, halves added to halves: the same order always.
template <class T>
INLINE T sum(Vec<T> v) {
    constexpr int lanes = Simd<T>::lanes;
    T x[lanes];
    std::memcpy(x, &v, sizeof(v));
    for (int width = lanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) x[i] += x[i + width];
    return x[0];
}

// Rows and vectors of the register tile of a matrix product.
#if VECTOR_BYTES == 64
constexpr int tile_rows = 8;
#else
constexpr int tile_rows = 4;
#endif
constexpr int tile_vectors = 2;

// A matrix whose element (row, k) is at data[row * row_step + k * step].
template <class T>
struct Left {
    const T* data;
    int64_t row_step, step;
};

// A matrix cut into panels of tile_vectors vectors: row k of panel t is at data[t * panel_step + k * row_step].
template <class T>
struct Right {
    const T* data;
    int64_t panel_step, row_step;
};

template <class T, int rows, int vectors>
INLINE void multiply_tile(Left<T> a, const T* b, int64_t b_step, T* c, int64_t c_step, int depth, bool more) {
    constexpr int lanes = Simd<T>::lanes;
    Vec<T> total[rows][vectors];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            total[r][v] = more ? load(c + r * c_step + v * lanes) : Vec<T>{};
    for (int k = 0; k < depth; k++) {
        Vec<T> right[vectors];
        for (int v = 0; v < vectors; v++) right[v] = load(b + k * b_step + v * lanes);
        for (int r = 0; r < rows; r++) {
            const T left = a.data[r * a.row_step + k * a.step];
            for (int v = 0; v < vectors; v++) total[r][v] += left * right[v];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(c + r * c_step + v * lanes, total[r][v]);
}

template <class T, int vectors, int rows>
void multiply_rest(Left<T> a, const T* b, int64_t b_step, T* c, int64_t c_step, int depth, bool more, int count) {
    if (count == rows) multiply_tile<T, rows, vectors>(a, b, b_step, c, c_step, depth, more);
    if constexpr (rows > 1)
        if (count < rows) multiply_rest<T, vectors, rows - 1>(a, b, b_step, c, c_step, depth, more, count);
}

template <class T, int vectors>
void multiply_panel(Left<T> a, const T* b, int64_t b_step, T* c, int64_t c_step, int rows, int depth, bool more) {
    for (int r = 0; r < rows; r += tile_rows) {
        Left<T> part{a.data + r * a.row_step, a.row_step, a.step};
        multiply_rest<T, vectors, tile_rows>(
            part, b, b_step, c + r * c_step, c_step, depth, more, std::min(tile_rows, rows - r));
    }
}

// c [rows, columns] = (or, with more, +=) a [rows, depth] b [depth, columns]; columns: a multiple of the lanes.
template <class T>
void multiply(Left<T> a, Right<T> b, T* c, int64_t c_step, int rows, int columns, int depth, bool more) {
    constexpr int lanes = Simd<T>::lanes, width = tile_vectors * lanes;
    for (int t = 0; t * width < columns; t++) {
        const T* panel = b.data + t * b.panel_step;
        if (columns - t * width >= width)
            multiply_panel<T, tile_vectors>(a, panel, b.row_step, c + t * width, c_step, rows, depth, more);
        else
            multiply_panel<T, 1>(a, panel, b.row_step, c + t * width, c_step, rows, depth, more);
    }
}

// A row-major matrix as the right factor, where it lies.
template <class T>
Right<T> in_place(const T* data, int64_t row_step) {
    return {data, tile_vectors * Simd<T>::lanes, row_step};
}

inline int64_t padded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A right factor copied panel by panel, so that a product reads it in one stream; the last panel is padded.
template <class T>
struct Packed {
    static constexpr int width = tile_vectors * Simd<T>::lanes;
    int64_t depth = 0, size = 0;
    std::vector<T> data;

    // matrices of [depth, columns] with the given steps, one after the other
    void fill(const T* from, int64_t count, int64_t matrix_step, int64_t rows, int64_t columns, int64_t row_step,
              int64_t column_step) {
        depth = rows;
        size = rows * padded(columns, width);
        data.assign(count * size, T(0));
        for (int64_t m = 0; m < count; m++)
            for (int64_t first = 0; first < columns; first += width)
                for (int64_t k = 0; k < rows; k++) {
                    const T* row = from + m * matrix_step + k * row_step + first * column_step;
                    T* to = data.data() + m * size + (first / width * rows + k) * width;
                    const int64_t stop = std::min<int64_t>(width, columns - first);
                    for (int64_t j = 0; j < stop; j++) to[j] = row[j * column_step];
                }
    }

    Right<T> operator[](int64_t matrix) const { return {data.data() + matrix * size, depth * width, width}; }
};

// Runs work(thread) for every thread.
template <class Work>
void in_threads(int threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (int t = 0; t < threads; t++) work(t);
}

// Where part t of a sequence of rows begins, when the parts are to hold equally many items.
inline int64_t part_begin(const int64_t* row_ptr, int64_t rows, int t, int parts) {
    if (t == parts) return rows;
    const int64_t target = row_ptr[rows] * t / parts;
    return std::min(rows, static_cast<int64_t>(std::lower_bound(row_ptr, row_ptr + rows, target) - row_ptr));
}

// to[i] = the sum over the parts, in their order
template <class T>
void add_parts(const std::vector<std::vector<T>>& parts, T* to, int64_t size) {
    for (int64_t i = 0; i < size; i++) {
        T total = parts[0][i];
        for (size_t p = 1; p < parts.size(); p++) total += parts[p][i];
        to[i] = total;
    }
}
