// A[i, (p, m3), k] = sum_j R[ij, p, k] sum_{m1, m2} C_p[m1, m2, m3] h[j, m1, k] Y[ij, m2] with R = phi W, and its
// first derivatives. A chunk of edges at a time: R of one path is a small matrix product into the cache, which the
// channels of the product with Q = C Y read from there. Every row of A belongs to one thread.
#include "convolution_kernels.h"

namespace {

template <class T>
void forward(const Shape& s, const T* h, const T* phi, const T* weight, const T* y, T* const* out) {
    const int threads = static_cast<int>(s.threads);
    const int64_t channels = s.channels, n = s.radial;
    Packed<T> w;
    w.fill(weight, s.paths, n * channels, n, channels, channels, 1);
    in_threads(threads, [&](int t) {
        const int64_t begin = part_begin(s.row_ptr, s.atoms, t, threads);
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        for (int64_t p = 0; p < s.paths; p++) {
            const PathView<T> path(s, p);
            const int64_t size = (2 * path.l3 + 1) * path.step;
            if (path.shift == 0) std::fill(out[path.l3] + begin * size, out[path.l3] + stop * size, T(0));
        }
        Chunk<T> chunk(s);
        std::vector<T> radial(chunk_edges * channels);
        int64_t row = begin;
        for (int64_t e = s.row_ptr[begin]; e < s.row_ptr[stop]; e += chunk_edges) {
            chunk.move(e, s.row_ptr[stop], row, y);
            for (int64_t p = 0; p < s.paths; p++) {
                const PathView<T> path(s, p);
                multiply<T>({phi + e * n, n, 1}, w[p], radial.data(), channels, chunk.count, channels, n, false);
                dispatch<0, 0>(Forward<T>{s, chunk, path, h, radial.data(), out[path.l3]}, path.l1, path.l3);
            }
        }
    });
}

template <class T>
void gradient(const Shape& s, const T* h, const T* phi, const T* weight, const T* y, const T* const* grad,
              T* const* to) {
    const int threads = static_cast<int>(s.threads);
    const int64_t channels = s.channels, n = s.radial;
    T *phi_grad = to[1], *weight_grad = to[2], *y_grad = to[3];
    Packed<T> w, transposed;
    w.fill(weight, s.paths, n * channels, n, channels, channels, 1);
    if (phi_grad) transposed.fill(weight, s.paths, n * channels, channels, n, 1, channels);
    SenderParts<T> h_parts(s, threads);
    std::vector<std::vector<T>> w_parts(threads);
    in_threads(threads, [&](int t) {
        const int64_t begin = part_begin(s.row_ptr, s.atoms, t, threads);
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        T* h_grad = h_parts.open(t, s.row_ptr[begin], s.row_ptr[stop]);
        if (weight_grad) w_parts[t].assign(s.paths * n * channels, T(0));
        Chunk<T> chunk(s);
        std::vector<T> radial(chunk_edges * channels), of_radial(chunk_edges * channels);
        Projection<T> projection(s);
        int64_t row = begin;
        for (int64_t e = s.row_ptr[begin]; e < s.row_ptr[stop]; e += chunk_edges) {
            chunk.move(e, s.row_ptr[stop], row, y);
            const int count = chunk.count;
            for (int64_t p = 0; p < s.paths; p++) {
                const PathView<T> path(s, p);
                multiply<T>({phi + e * n, n, 1}, w[p], radial.data(), channels, count, channels, n, false);
                const Backward<T> back{s, chunk, path, h, radial.data(), grad[path.l3], of_radial.data(), h_grad,
                                       y_grad ? &projection : nullptr};
                dispatch<0, 0>(back, path.l1, path.l3);
                const Left<T> left{of_radial.data(), channels, 1};
                if (phi_grad) multiply<T>(left, transposed[p], phi_grad + e * n, n, count, n, channels, p > 0);
                if (weight_grad)
                    multiply<T>({phi + e * n, 1, n}, in_place(of_radial.data(), channels),
                                w_parts[t].data() + p * n * channels, channels, n, channels, count, true);
            }
            if (y_grad) {
                std::fill(y_grad + e * s.lm_edge, y_grad + (e + count) * s.lm_edge, T(0));
                projection.add_to(y_grad, e, count);
                projection.clear();
            }
        }
    });
    h_parts.sum_to(to[0]);
    if (weight_grad) add_parts(w_parts, weight_grad, s.paths * n * channels);
}

}  // namespace

#define EXPORT(T, suffix)                                                                                    \
    extern "C" void convolution_forward_##suffix(const Shape* s, const T* h, const T* phi, const T* weight,  \
                                                 const T* y, T* const* out) {                                \
        forward<T>(*s, h, phi, weight, y, out);                                                              \
    }                                                                                                        \
    extern "C" void convolution_gradient_##suffix(const Shape* s, const T* h, const T* phi, const T* weight, \
                                                  const T* y, const T* const* grad, T* const* to) {          \
        gradient<T>(*s, h, phi, weight, y, grad, to);                                                        \
    }

EXPORT(float, float32)
EXPORT(double, float64)
