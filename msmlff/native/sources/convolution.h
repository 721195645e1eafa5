// What the convolution is told besides tensors, and one chunk of its edges.
#pragma once

#include "common.h"

struct Shape {
    int64_t atoms, edges, lm_hidden, lm_edge, channels, radial, paths, products, entries, threads;
    const int64_t* row_ptr;      // [atoms + 1]
    const int64_t* sender;       // [edges]
    const int64_t* path;         // [paths, 5]: l1, l3, place among the paths to l3, their number, first product
    const int64_t* entry;        // [entries, 2]: product (path, m1, m3), (l2, m2)
    const double* coefficient;   // [entries], Clebsch-Gordan
};

// Edges whose intermediate results stay in the cache.
constexpr int chunk_edges = 64;

struct Segment {
    int64_t row;
    int begin, end;
};

// The edges first .. first + count of a chunk: the rows they belong to, their angular factors
// Q[product, edge] = sum over m2 of C Y.
template <class T>
struct Chunk {
    const Shape& s;
    int64_t first = 0;
    int count = 0;
    std::vector<Segment> segments;
    int64_t sent[chunk_edges] = {};                              // where the sender's features begin
    int64_t read[chunk_edges] = {}, written[chunk_edges] = {};   // where R begins, and its gradient
    std::vector<T> q;

    explicit Chunk(const Shape& shape) : s(shape), q(shape.products * chunk_edges) {}

    void move(int64_t begin, int64_t end, int64_t& row, const T* y) {
        first = begin;
        count = static_cast<int>(std::min<int64_t>(chunk_edges, end - begin));
        segments.clear();
        for (int e = 0; e < count;) {
            while (s.row_ptr[row + 1] <= first + e) row++;
            const int stop = static_cast<int>(std::min<int64_t>(count, s.row_ptr[row + 1] - first));
            segments.push_back({row, e, stop});
            e = stop;
        }
        for (int e = 0; e < count; e++) {
            sent[e] = s.sender[first + e] * s.lm_hidden * s.channels;
            read[e] = written[e] = e * s.channels;
        }
        angular(y, q);
    }

    void angular(const T* y, std::vector<T>& to) const {
        std::fill(to.begin(), to.end(), T(0));
        T column[chunk_edges] = {};
        int64_t held = -1;
        for (int64_t i = 0; i < s.entries; i++) {
            const int64_t lm = s.entry[2 * i + 1];
            if (lm != held)
                for (int e = 0; e < count; e++) column[e] = y[(first + e) * s.lm_edge + lm];
            held = lm;
            T* out = to.data() + s.entry[2 * i] * chunk_edges;
            const T c = static_cast<T>(s.coefficient[i]);
            for (int e = 0; e < chunk_edges; e++) out[e] += c * column[e];
        }
    }
};

// One path within a chunk.
template <class T>
struct PathView {
    int64_t index, l1, l3, product;
    int64_t step, shift;  // of a component of A, where this path's channels begin in it

    PathView(const Shape& s, int64_t p)
        : index(p),
          l1(s.path[5 * p]),
          l3(s.path[5 * p + 1]),
          product(s.path[5 * p + 4]),
          step(s.path[5 * p + 3] * s.channels),
          shift(s.path[5 * p + 2] * s.channels) {}

    int64_t out(int64_t row) const { return row * (2 * l3 + 1) * step + shift; }
};

// The gradient by Y of a chunk's edges, the adjoint of angular: vectors over the channels, whose elements are summed
// when all paths are in, not for each product.
template <class T>
struct Projection {
    struct Entry {
        int64_t product, lm;  // (m1, m3) of the path, (l2, m2)
        T coefficient;
    };
    const Shape& s;
    std::vector<std::vector<Entry>> entries;  // of each path, ascending in lm
    std::vector<T> data;                      // [edges, lm, lanes]

    explicit Projection(const Shape& shape)
        : s(shape), entries(shape.paths), data(chunk_edges * shape.lm_edge * Simd<T>::lanes) {
        for (int64_t i = 0; i < s.entries; i++) {
            int64_t p = s.paths - 1;
            while (s.path[5 * p + 4] > s.entry[2 * i]) p--;
            const T c = static_cast<T>(s.coefficient[i]);
            entries[p].push_back({s.entry[2 * i] - s.path[5 * p + 4], s.entry[2 * i + 1], c});
        }
    }

    void clear() { std::fill(data.begin(), data.end(), T(0)); }

    // Adds what the products [(m1, m3)] of an edge and a path give.
    INLINE void add(int64_t path, int e, const Vec<T>* product) {
        T* to = data.data() + e * s.lm_edge * Simd<T>::lanes;
        const std::vector<Entry>& list = entries[path];
        for (size_t i = 0; i < list.size();) {
            const int64_t lm = list[i].lm;
            Vec<T> total = {};
            for (; i < list.size() && list[i].lm == lm; i++) total += list[i].coefficient * product[list[i].product];
            ::add(to + lm * Simd<T>::lanes, total);
        }
    }

    // Adds the sums to the gradient of edges first .. first + count.
    void add_to(T* y_grad, int64_t first, int count) const {
        for (int64_t i = 0; i < count * s.lm_edge; i++)
            y_grad[first * s.lm_edge + i] += sum<T>(load(data.data() + i * Simd<T>::lanes));
    }
};

// The gradient by h, a part for each thread over the senders its edges have; the parts are summed in their order.
template <class T>
struct SenderParts {
    const Shape& s;
    int64_t width;
    std::vector<std::vector<T>> data;
    std::vector<int64_t> low, high;  // the senders of a part

    SenderParts(const Shape& shape, int parts)
        : s(shape), width(shape.lm_hidden * shape.channels), data(parts), low(parts, 0), high(parts, 0) {}

    // Where the gradient of atom 0 would lie in the zeroed part of the edges begin .. end.
    T* open(int part, int64_t begin, int64_t end) {
        if (begin < end) {
            const auto range = std::minmax_element(s.sender + begin, s.sender + end);
            low[part] = *range.first;
            high[part] = *range.second + 1;
        }
        data[part].assign((high[part] - low[part]) * width, T(0));
        return data[part].data() - low[part] * width;
    }

    void sum_to(T* to) const {
        const int threads = static_cast<int>(s.threads);
        in_threads(threads, [&](int t) {
            for (int64_t atom = s.atoms * t / threads; atom < s.atoms * (t + 1) / threads; atom++) {
                std::fill(to + atom * width, to + (atom + 1) * width, T(0));
                for (size_t p = 0; p < data.size(); p++)
                    if (low[p] <= atom && atom < high[p])
                        for (int64_t k = 0; k < width; k++)
                            to[atom * width + k] += data[p][(atom - low[p]) * width + k];
            }
        });
    }
};

// Calls f.template run<2 l1 + 1, 2 l3 + 1>() for the numbers at hand; l up to 4.
template <int l1, int l3, class F>
void dispatch(const F& f, int64_t a, int64_t b) {
    if (a == l1 && b == l3) return f.template run<2 * l1 + 1, 2 * l3 + 1>();
    if constexpr (l3 < 4) {
        if (b > l3) return dispatch<l1, l3 + 1>(f, a, b);
    }
    if constexpr (l1 < 4 && l3 <= 4) {
        if (a > l1) return dispatch<l1 + 1, l3>(f, a, b);
    }
}
