// The gradient of <v, dE/d(h, phi, W, Y)>, E's gradient by A given, by (h, phi, W, Y) and by that gradient. With
// v's part of a quantity written v_, v_R = v_phi W + phi v_W, and a message M = R h, v_M = v_R h + R v_h.
#include "convolution_kernels.h"

namespace {

template <class T>
struct Operands {
    const T *h, *phi, *weight, *y;
};

// The packed weights, and those of v where v moves them.
template <class T>
struct Weights {
    Packed<T> w, transposed, v_w, v_transposed;

    Weights(const Shape& s, const T* weight, const T* v_weight) {
        const int64_t n = s.radial, k = s.channels;
        w.fill(weight, s.paths, n * k, n, k, k, 1);
        transposed.fill(weight, s.paths, n * k, k, n, 1, k);
        if (!v_weight) return;
        v_w.fill(v_weight, s.paths, n * k, n, k, k, 1);
        v_transposed.fill(v_weight, s.paths, n * k, k, n, 1, k);
    }
};

// One thread's share.
template <class T>
struct Worker {
    const Shape& s;
    const Operands<T>&x, &v;
    const T* const* grad;
    T* const* to;  // gradients by h, phi, W, Y
    T* const* out;  // and by grad
    const Weights<T>& weights;
    T *h_grad, *weight_grad;
    Chunk<T> chunk;
    Projection<T> projection;
    std::vector<T> v_q, radial, v_radial, of_radial, of_v_radial;

    void run(int64_t begin, int64_t stop) {
        const int64_t size = chunk_edges * s.channels;
        v_q.resize(chunk.q.size());
        for (auto* scratch : {&radial, &v_radial, &of_radial, &of_v_radial}) scratch->resize(size);
        int64_t row = begin;
        for (int64_t e = s.row_ptr[begin]; e < s.row_ptr[stop]; e += chunk_edges) {
            chunk.move(e, s.row_ptr[stop], row, x.y);
            chunk.angular(v.y, v_q);
            for (int64_t p = 0; p < s.paths; p++) one_path(e, p);
            if (!to[3]) continue;
            std::fill(to[3] + e * s.lm_edge, to[3] + (e + chunk.count) * s.lm_edge, T(0));
            projection.add_to(to[3], e, chunk.count);
            projection.clear();
        }
    }

    void one_path(int64_t e, int64_t p) {
        const PathView<T> path(s, p);
        const int64_t n = s.radial, channels = s.channels;
        const int count = chunk.count;
        const bool moves = v.weight != nullptr;
        const Left<T> phi{x.phi + e * n, n, 1}, v_phi{v.phi + e * n, n, 1};
        multiply<T>(phi, weights.w[p], radial.data(), channels, count, channels, n, false);
        multiply<T>(v_phi, weights.w[p], v_radial.data(), channels, count, channels, n, false);
        if (moves) multiply<T>(phi, weights.v_w[p], v_radial.data(), channels, count, channels, n, true);
        const Second<T> second{s, chunk, path, v_q.data(), x.h, v.h, radial.data(), v_radial.data(), grad[path.l3],
                               out[path.l3], of_radial.data(), of_v_radial.data(), h_grad,
                               to[3] ? &projection : nullptr};
        dispatch<0, 0>(second, path.l1, path.l3);
        const Left<T> of_r{of_radial.data(), channels, 1}, of_vr{of_v_radial.data(), channels, 1};
        if (to[1]) {
            multiply<T>(of_r, weights.transposed[p], to[1] + e * n, n, count, n, channels, p > 0);
            if (moves) multiply<T>(of_vr, weights.v_transposed[p], to[1] + e * n, n, count, n, channels, true);
        }
        if (!weight_grad) return;
        T* w = weight_grad + p * n * channels;
        multiply<T>({x.phi + e * n, 1, n}, in_place(of_radial.data(), channels), w, channels, n, channels, count, true);
        multiply<T>({v.phi + e * n, 1, n}, in_place(of_v_radial.data(), channels), w, channels, n, channels, count, true);
    }
};

template <class T>
void second(const Shape& s, const Operands<T>& x, const Operands<T>& v, const T* const* grad, T* const* to,
            T* const* out) {
    const int threads = static_cast<int>(s.threads);
    const Weights<T> weights(s, x.weight, v.weight);
    SenderParts<T> h_parts(s, threads);
    std::vector<std::vector<T>> w_parts(threads);
    in_threads(threads, [&](int t) {
        const int64_t begin = part_begin(s.row_ptr, s.atoms, t, threads);
        const int64_t stop = part_begin(s.row_ptr, s.atoms, t + 1, threads);
        for (int64_t p = 0; p < s.paths; p++) {
            const PathView<T> path(s, p);
            const int64_t size = (2 * path.l3 + 1) * path.step;
            if (path.shift == 0) std::fill(out[path.l3] + begin * size, out[path.l3] + stop * size, T(0));
        }
        T* h_grad = h_parts.open(t, s.row_ptr[begin], s.row_ptr[stop]);
        if (to[2]) w_parts[t].assign(s.paths * s.radial * s.channels, T(0));
        T* weight_grad = to[2] ? w_parts[t].data() : nullptr;
        Worker<T>{s, x, v, grad, to, out, weights, h_grad, weight_grad, Chunk<T>(s), Projection<T>(s), {}, {}, {}, {}, {}}.run(
            begin, stop);
    });
    h_parts.sum_to(to[0]);
    if (to[2]) add_parts(w_parts, to[2], s.paths * s.radial * s.channels);
}

}  // namespace

#define EXPORT(T, suffix)                                                                                       \
    extern "C" void convolution_second_##suffix(const Shape* s, const T* const* x, const T* const* v,           \
                                                const T* const* grad, T* const* to, T* const* out) {            \
        second<T>(*s, {x[0], x[1], x[2], x[3]}, {v[0], v[1], v[2], v[3]}, grad, to, out);                       \
    }

EXPORT(float, float32)
EXPORT(double, float64)
