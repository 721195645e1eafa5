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

template <class T, int count>
void sum_rows(const Sum& s, int64_t row, int64_t lm, const T* y, const T* phi, T* out) {
    const int64_t n = s.radial;
    for (int64_t z = 0; z < s.species; z++)
        for (int64_t k = 0; k < n; k += Simd<T>::lanes) {
            Vec<T> total[count] = {};
            for (int64_t e = s.row_ptr[row]; e < s.row_ptr[row + 1]; e++) {
                if (s.kind[e] != z) continue;
                const Vec<T> p = load(phi + e * n + k);
                for (int m = 0; m < count; m++) total[m] += y[e * s.lm + lm + m] * p;
            }
            for (int m = 0; m < count; m++) store(out + ((row * s.lm + lm + m) * s.species + z) * n + k, total[m]);
        }
}

template <class T, int count>
void sum_rows(const Sum& s, int64_t row, int64_t lm, int wanted, const T* y, const T* phi, T* out) {
    if (wanted == count) return sum_rows<T, count>(s, row, lm, y, phi, out);
    if constexpr (count > 1) sum_rows<T, count - 1>(s, row, lm, wanted, y, phi, out);
}

template <class T>
void density(const Sum& s, const T* y, const T* phi, T* out) {
    const int threads = static_cast<int>(s.threads);
    in_threads(threads, [&](int t) {
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        for (int64_t row = part_begin(s.row_ptr, s.atoms, t, threads); row < stop; row++)
            for (int64_t lm = 0; lm < s.lm; lm += lm_block) {
                const int wanted = static_cast<int>(std::min<int64_t>(lm_block, s.lm - lm));
                sum_rows<T, lm_block>(s, row, lm, wanted, y, phi, out);
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

}  // namespace

#define EXPORT(T, suffix)                                                                                   \
    extern "C" void density_##suffix(const Sum* s, const T* y, const T* phi, T* out) {                      \
        density<T>(*s, y, phi, out);                                                                        \
    }                                                                                                       \
    extern "C" void density_adjoint_##suffix(const Sum* s, const T* y, const T* phi, const T* grad, T* y_grad, \
                                             T* phi_grad) {                                                 \
        adjoint<T>(*s, y, phi, grad, y_grad, phi_grad);                                                     \
    }

EXPORT(float, float32)
EXPORT(double, float64)

extern "C" int64_t vector_bytes() { return VECTOR_BYTES; }
