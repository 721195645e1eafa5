// Linear maps of features, out[i, row + m blocks .., :] += c x[i, first + m, :] W, a sum of terms with W shared or by
// the atom's species, and their adjoints by x and by W. The sum is linear in x and in W: second derivatives are these
// three operations with other operands. A chunk of atoms at a time, all of one species where W is by species.
#include "common.h"

namespace {

struct Term {
    int64_t input, input_rows, first, count, depth;  // which x, its rows an atom; the first row read, how many; inputs
    int64_t weight, offset, species_step;            // which weights, where W begins, and that of the next species
    int64_t row, blocks;                             // the first row written; for each row read, so many
};

struct Maps {
    int64_t atoms, terms, weights, rows, channels, species, threads;
    const int64_t* kind;    // [atoms] species
    const Term* term;       // [terms]
    const double* scale;    // [terms]
    const int64_t* size;    // [weights] numbers of each

    int64_t columns(const Term& t) const { return t.blocks * channels; }
    bool by_species(const Term& t) const { return t.species_step > 0; }
};

constexpr int64_t chunk_atoms = 64;

// Atoms order[begin ..], or begin .. where there is no order, of one species.
struct Chunk {
    const int64_t* order;
    int64_t begin;
    int count;
    int64_t species;

    int64_t atom(int r) const { return order ? order[begin + r] : begin + r; }
};

// Calls work(thread, chunk, by species) for all chunks: of all atoms, then, where there are such terms, by species.
template <class Work>
void for_chunks(const Maps& s, Work work) {
    const int threads = static_cast<int>(s.threads);
    const auto run = [&](int t, const int64_t* order, int64_t begin, int64_t end, int64_t species) {
        for (int64_t a = begin; a < end; a += chunk_atoms)
            work(t, Chunk{order, a, static_cast<int>(std::min(chunk_atoms, end - a)), species}, order != nullptr);
    };
    in_threads(threads, [&](int t) { run(t, nullptr, s.atoms * t / threads, s.atoms * (t + 1) / threads, 0); });
    if (std::none_of(s.term, s.term + s.terms, [&](const Term& term) { return s.by_species(term); })) return;
    std::vector<int64_t> pointer(s.species + 1, 0), order(s.atoms);
    for (int64_t i = 0; i < s.atoms; i++) pointer[s.kind[i] + 1]++;
    for (int64_t z = 0; z < s.species; z++) pointer[z + 1] += pointer[z];
    std::vector<int64_t> next(pointer.begin(), pointer.end() - 1);
    for (int64_t i = 0; i < s.atoms; i++) order[next[s.kind[i]]++] = i;
    in_threads(threads, [&](int t) {
        const int64_t first = s.atoms * t / threads, last = s.atoms * (t + 1) / threads;
        for (int64_t z = 0; z < s.species; z++)
            run(t, order.data(), std::max(first, pointer[z]), std::min(last, pointer[z + 1]), z);
    });
}

// A thread's scratch.
template <class T>
struct Scratch {
    std::vector<T> left, right, product;

    explicit Scratch(const Maps& s) {
        int64_t width = 0;
        for (int64_t i = 0; i < s.terms; i++) width = std::max({width, s.term[i].depth, s.columns(s.term[i])});
        width = padded(width, Simd<T>::lanes);
        left.resize(chunk_atoms * width);
        right.resize(chunk_atoms * width);
        product.resize(std::max(chunk_atoms, width) * width);
    }
};

// The atoms' rows data + atom step [width]: where they lie, or copied.
template <class T>
Left<T> rows_of(const Chunk& chunk, const T* data, int64_t step, int64_t width, bool copy, std::vector<T>& scratch) {
    if (!chunk.order && !copy) return {data + chunk.begin * step, step, 1};
    const int64_t to_step = padded(width, Simd<T>::lanes);
    for (int r = 0; r < chunk.count; r++) {
        const T* from = data + chunk.atom(r) * step;
        std::copy(from, from + width, scratch.data() + r * to_step);
    }
    return {scratch.data(), to_step, 1};
}

// The atoms' rows to + atom step [columns] += a b.
template <class T>
void add_rows(const Chunk& chunk, Left<T> a, Right<T> b, T* to, int64_t step, int64_t columns, int64_t depth,
              std::vector<T>& scratch) {
    const int64_t width = padded(columns, Simd<T>::lanes);
    const int size = static_cast<int>(width), inner = static_cast<int>(depth);
    if (!chunk.order && width == columns)
        return multiply<T>(a, b, to + chunk.begin * step, step, chunk.count, size, inner, true);
    multiply<T>(a, b, scratch.data(), width, chunk.count, size, inner, false);
    for (int r = 0; r < chunk.count; r++) {
        T* row = to + chunk.atom(r) * step;
        for (int64_t j = 0; j < columns; j++) row[j] += scratch[r * width + j];
    }
}

// c W of all terms and species as right factors, or their transposes.
template <class T>
std::vector<Packed<T>> pack(const Maps& s, const T* const* weight, bool transposed) {
    std::vector<Packed<T>> packed(s.terms);
    for (int64_t i = 0; i < s.terms; i++) {
        const Term& t = s.term[i];
        const int64_t columns = s.columns(t), count = s.by_species(t) ? s.species : 1;
        const T* from = weight[t.weight] + t.offset;
        if (transposed)
            packed[i].fill(from, count, t.species_step, columns, t.depth, 1, columns);
        else
            packed[i].fill(from, count, t.species_step, t.depth, columns, columns, 1);
        for (T& w : packed[i].data) w *= static_cast<T>(s.scale[i]);
    }
    return packed;
}

// Calls work(scratch, chunk, term) for every term of every chunk.
template <class T, class Work>
void for_terms(const Maps& s, Work work) {
    std::vector<Scratch<T>> scratch(s.threads, Scratch<T>(s));
    for_chunks(s, [&](int t, const Chunk& chunk, bool by_species) {
        for (int64_t i = 0; i < s.terms; i++)
            if (s.by_species(s.term[i]) == by_species) work(t, scratch[t], chunk, i);
    });
}

template <class T>
void clear(const Maps& s, T* data, int64_t step) {
    const int threads = static_cast<int>(s.threads);
    in_threads(threads, [&](int t) {
        std::fill(data + s.atoms * t / threads * step, data + s.atoms * (t + 1) / threads * step, T(0));
    });
}

template <class T>
void apply(const Maps& s, const T* const* x, const T* const* weight, T* out, bool more) {
    const std::vector<Packed<T>> packed = pack<T>(s, weight, false);
    const int64_t step = s.rows * s.channels;
    if (!more) clear<T>(s, out, step);
    for_terms<T>(s, [&](int, Scratch<T>& scratch, const Chunk& chunk, int64_t i) {
        const Term& t = s.term[i];
        for (int64_t m = 0; m < t.count; m++) {
            const T* from = x[t.input] + (t.first + m) * t.depth;
            const Left<T> rows = rows_of<T>(chunk, from, t.input_rows * t.depth, t.depth, false, scratch.left);
            add_rows<T>(chunk, rows, packed[i][chunk.species], out + (t.row + m * t.blocks) * s.channels, step,
                        s.columns(t), t.depth, scratch.product);
        }
    });
}

// dE/dx from dE/dout, where it is wanted.
template <class T>
void adjoint(const Maps& s, const T* grad, const T* const* weight, T* const* x_grad) {
    const std::vector<Packed<T>> packed = pack<T>(s, weight, true);
    std::vector<bool> cleared(s.terms, false);
    for (int64_t i = 0; i < s.terms; i++) {
        const Term& t = s.term[i];
        if (!x_grad[t.input] || cleared[t.input]) continue;
        clear<T>(s, x_grad[t.input], t.input_rows * t.depth);
        cleared[t.input] = true;
    }
    for_terms<T>(s, [&](int, Scratch<T>& scratch, const Chunk& chunk, int64_t i) {
        const Term& t = s.term[i];
        if (!x_grad[t.input]) return;
        for (int64_t m = 0; m < t.count; m++) {
            const T* from = grad + (t.row + m * t.blocks) * s.channels;
            const Left<T> rows = rows_of<T>(chunk, from, s.rows * s.channels, s.columns(t), false, scratch.left);
            add_rows<T>(chunk, rows, packed[i][chunk.species], x_grad[t.input] + (t.first + m) * t.depth,
                        t.input_rows * t.depth, t.depth, s.columns(t), scratch.product);
        }
    });
}

// dE/dW from dE/dout, where it is wanted: summed by thread, then over the threads in order.
template <class T>
void weigh(const Maps& s, const T* const* x, const T* grad, T* const* w_grad) {
    std::vector<int64_t> begin(s.weights + 1, 0);
    for (int64_t w = 0; w < s.weights; w++) begin[w + 1] = begin[w] + s.size[w];
    std::vector<std::vector<T>> parts(s.threads, std::vector<T>(begin[s.weights], T(0)));
    for_terms<T>(s, [&](int thread, Scratch<T>& scratch, const Chunk& chunk, int64_t i) {
        const Term& t = s.term[i];
        if (!w_grad[t.weight]) return;
        const int64_t columns = s.columns(t), width = padded(columns, Simd<T>::lanes);
        T* to = parts[thread].data() + begin[t.weight] + t.offset + chunk.species * t.species_step;
        const int depth = static_cast<int>(t.depth), size = static_cast<int>(width);
        for (int64_t m = 0; m < t.count; m++) {
            const T* from = x[t.input] + (t.first + m) * t.depth;
            const Left<T> a = rows_of<T>(chunk, from, t.input_rows * t.depth, t.depth, false, scratch.left);
            const Left<T> b = rows_of<T>(chunk, grad + (t.row + m * t.blocks) * s.channels, s.rows * s.channels,
                                         columns, width != columns, scratch.right);
            const Left<T> flipped{a.data, 1, a.row_step};
            if (width == columns) {
                multiply<T>(flipped, in_place(b.data, b.row_step), to, columns, depth, size, chunk.count, true);
                continue;
            }
            multiply<T>(flipped, in_place(b.data, b.row_step), scratch.product.data(), width, depth, size,
                        chunk.count, false);
            for (int64_t j = 0; j < t.depth * columns; j++)
                to[j] += scratch.product[j / columns * width + j % columns];
        }
    });
    for (int64_t i = 0; i < s.terms; i++) {
        const Term& t = s.term[i];
        if (!w_grad[t.weight]) continue;
        for (int64_t z = 0; z < (s.by_species(t) ? s.species : 1); z++) {
            const int64_t offset = t.offset + z * t.species_step;
            for (int64_t j = offset; j < offset + t.depth * s.columns(t); j++) {
                T total = parts[0][begin[t.weight] + j];
                for (int64_t p = 1; p < s.threads; p++) total += parts[p][begin[t.weight] + j];
                w_grad[t.weight][j] = static_cast<T>(s.scale[i]) * total;
            }
        }
    }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                           \
    extern "C" void maps_apply_##suffix(const Maps* s, const T* const* x, const T* const* weight, T* out, int more) { \
        apply<T>(*s, x, weight, out, more != 0);                                                                    \
    }                                                                                                               \
    extern "C" void maps_adjoint_##suffix(const Maps* s, const T* grad, const T* const* weight, T* const* x_grad) { \
        adjoint<T>(*s, grad, weight, x_grad);                                                                       \
    }                                                                                                               \
    extern "C" void maps_weigh_##suffix(const Maps* s, const T* const* x, const T* grad, T* const* w_grad) {        \
        weigh<T>(*s, x, grad, w_grad);                                                                              \
    }

EXPORT(float, float32)
EXPORT(double, float64)
