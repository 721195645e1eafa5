// Sums over neighbours without channels, D[i, lm, z, n] = sum over j of species z of Y[ij, lm] phi[ij, n], and their
// adjoints. The sum is linear in Y and in phi: second derivatives are these three operations with other operands.
#include "common.h"

namespace {

struct Sum {
    int64_t atoms, lm, species, radial, threads;
    const int64_t* row_ptr;
    const int64_t* kind;  // [edges], species of the sender
};

constexpr int lm_block = 8;

// item: [edges] which row of phi an edge has; null: its own.
template <class T, int count>
void sum_rows(const Sum& s, int64_t row, int64_t lm, const T* y, const T* phi, const int64_t* item, T* out) {
    const int64_t n = s.radial;
    for (int64_t z = 0; z < s.species; z++)
        for (int64_t k = 0; k < n; k += Simd<T>::lanes) {
            Vec<T> total[count] = {};
            for (int64_t e = s.row_ptr[row]; e < s.row_ptr[row + 1]; e++) {
                if (s.kind[e] != z) continue;
                const Vec<T> p = load(phi + (item ? item[e] : e) * n + k);
                for (int m = 0; m < count; m++) total[m] += y[e * s.lm + lm + m] * p;
            }
            for (int m = 0; m < count; m++) store(out + ((row * s.lm + lm + m) * s.species + z) * n + k, total[m]);
        }
}

template <class T, int count>
void sum_rows(const Sum& s, int64_t row, int64_t lm, int wanted, const T* y, const T* phi, const int64_t* item,
              T* out) {
    if (wanted == count) return sum_rows<T, count>(s, row, lm, y, phi, item, out);
    if constexpr (count > 1) sum_rows<T, count - 1>(s, row, lm, wanted, y, phi, item, out);
}

template <class T>
void density(const Sum& s, const T* y, const T* phi, const int64_t* item, T* out) {
    const int threads = static_cast<int>(s.threads);
    in_threads(threads, [&](int t) {
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        for (int64_t row = part_begin(s.row_ptr, s.atoms, t, threads); row < stop; row++)
            for (int64_t lm = 0; lm < s.lm; lm += lm_block) {
                const int wanted = static_cast<int>(std::min<int64_t>(lm_block, s.lm - lm));
                sum_rows<T, lm_block>(s, row, lm, wanted, y, phi, item, out);
            }
    });
}

template <class T>
void adjoint(const Sum& s, const T* y, const T* phi, const T* grad, T* y_grad, T* phi_grad) {
    const int threads = static_cast<int>(s.threads);
    const int64_t n = s.radial, step = s.species * n;
    in_threads(threads, [&](int t) {
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        for (int64_t row = part_begin(s.row_ptr, s.atoms, t, threads); row < stop; row++)
            for (int64_t e = s.row_ptr[row]; e < s.row_ptr[row + 1]; e++) {
                const T* g = grad + row * s.lm * step + s.kind[e] * n;
                for (int64_t k = 0; phi_grad && k < n; k += Simd<T>::lanes) {
                    Vec<T> total = {};
                    for (int64_t m = 0; m < s.lm; m++) total += y[e * s.lm + m] * load(g + m * step + k);
                    store(phi_grad + e * n + k, total);
                }
                for (int64_t m = 0; y_grad && m < s.lm; m++) {
                    Vec<T> total = {};
                    for (int64_t k = 0; k < n; k += Simd<T>::lanes)
                        total += load(phi + e * n + k) * load(g + m * step + k);
                    y_grad[e * s.lm + m] = sum<T>(total);
                }
            }
    });
}

// Edges i <- j and j <- i of opposite vectors become one item: its number for each edge, and its edges [items, 2],
// -1 where there is no second. Returns the number of items.
template <class T>
int64_t find_pairs(int64_t atoms, const int64_t* row_ptr, const int64_t* sender, const T* vector, int64_t* item,
                   int64_t* edge) {
    int64_t items = 0;
    std::fill(item, item + row_ptr[atoms], int64_t(-1));
    for (int64_t i = 0; i < atoms; i++)
        for (int64_t e = row_ptr[i]; e < row_ptr[i + 1]; e++) {
            if (item[e] >= 0) continue;
            const T* v = vector + 3 * e;
            edge[2 * items] = e;
            edge[2 * items + 1] = -1;
            item[e] = items;
            for (int64_t f = row_ptr[sender[e]]; f < row_ptr[sender[e] + 1]; f++) {
                const T* w = vector + 3 * f;
                if (item[f] >= 0 || sender[f] != i || w[0] != -v[0] || w[1] != -v[1] || w[2] != -v[2]) continue;
                edge[2 * items + 1] = f;
                item[f] = items;
                break;
            }
            items++;
        }
    return items;
}

// The adjoint where edges share rows of phi. edge: [items, 2], those that have a row; -1 where there is no second.
template <class T>
void adjoint_of_items(const Sum& s, int64_t items, const int64_t* edge, const int64_t* receiver, const T* y,
                      const T* phi, const T* grad, T* y_grad, T* phi_grad) {
    const int threads = static_cast<int>(s.threads);
    const int64_t n = s.radial, step = s.species * n;
    in_threads(threads, [&](int t) {
        for (int64_t i = items * t / threads; i < items * (t + 1) / threads; i++) {
            const int count = edge[2 * i + 1] < 0 ? 1 : 2;
            const T* from[2];
            for (int c = 0; c < count; c++) {
                const int64_t e = edge[2 * i + c];
                from[c] = grad + receiver[e] * s.lm * step + s.kind[e] * n;
            }
            for (int64_t k = 0; phi_grad && k < n; k += Simd<T>::lanes) {
                Vec<T> total = {};
                for (int c = 0; c < count; c++)
                    for (int64_t m = 0; m < s.lm; m++)
                        total += y[edge[2 * i + c] * s.lm + m] * load(from[c] + m * step + k);
                store(phi_grad + i * n + k, total);
            }
            for (int c = 0; y_grad && c < count; c++)
                for (int64_t m = 0; m < s.lm; m++) {
                    Vec<T> total = {};
                    for (int64_t k = 0; k < n; k += Simd<T>::lanes)
                        total += load(phi + i * n + k) * load(from[c] + m * step + k);
                    y_grad[edge[2 * i + c] * s.lm + m] = sum<T>(total);
                }
        }
    });
}

}  // namespace

#define EXPORT(T, suffix)                                                                                   \
    extern "C" void density_##suffix(const Sum* s, const T* y, const T* phi, T* out) {                      \
        density<T>(*s, y, phi, nullptr, out);                                                                      \
    }                                                                                                       \
    extern "C" void density_adjoint_##suffix(const Sum* s, const T* y, const T* phi, const T* grad, T* y_grad, \
                                             T* phi_grad) {                                                 \
        adjoint<T>(*s, y, phi, grad, y_grad, phi_grad);                                                     \
    }                                                                                                       \
    extern "C" void density_of_items_##suffix(const Sum* s, const int64_t* item, const T* y, const T* phi, T* out) { \
        density<T>(*s, y, phi, item, out);                                                                  \
    }                                                                                                       \
    extern "C" void density_of_items_adjoint_##suffix(const Sum* s, int64_t items, const int64_t* edge,     \
                                                      const int64_t* receiver, const T* y, const T* phi,    \
                                                      const T* grad, T* y_grad, T* phi_grad) {              \
        adjoint_of_items<T>(*s, items, edge, receiver, y, phi, grad, y_grad, phi_grad);                     \
    }                                                                                                       \
    extern "C" void find_pairs_##suffix(int64_t atoms, const int64_t* row_ptr, const int64_t* sender,       \
                                        const T* vector, int64_t* item, int64_t* edge, int64_t* count) {    \
        *count = find_pairs<T>(atoms, row_ptr, sender, vector, item, edge);                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)

extern "C" int64_t vector_bytes() { return VECTOR_BYTES; }
