// The radial network a_l = silu(z_l), z_l = a_{l-1} W_l, and its first and second derivatives, a chunk of rows at a
// time: all that lies between stays in the cache and is computed again in each pass.
#include "silu.h"

namespace {

struct Network {
    int64_t items, layers, threads;
    const int64_t* size;  // [layers + 1]; those after the first are multiples of the lanes
};

constexpr int chunk_rows = 64;

// Weights as right factors, as they are and transposed.
template <class T>
struct Weights {
    std::vector<Packed<T>> w, transposed;

    Weights(const Network& net, const T* const* weight, bool with_transposed) : w(net.layers), transposed(net.layers) {
        for (int64_t l = 0; l < net.layers; l++) {
            const int64_t a = net.size[l], b = net.size[l + 1];
            w[l].fill(weight[l], 1, 0, a, b, b, 1);
            if (with_transposed) transposed[l].fill(weight[l], 1, 0, b, a, 1, b);
        }
    }
};

// A thread's scratch: arrays [layer][chunk_rows, width], and its part of the weights' gradients.
template <class T>
struct Scratch {
    const Network& net;
    int64_t width = 0;
    std::vector<T> data;
    std::vector<std::vector<T>> weight_grad;

    Scratch(const Network& network, int arrays, bool with_weights) : net(network) {
        for (int64_t l = 0; l <= net.layers; l++)
            width = std::max(width, padded(net.size[l], tile_vectors * Simd<T>::lanes));
        data.resize(arrays * (net.layers + 1) * chunk_rows * width);
        for (int64_t l = 0; with_weights && l < net.layers; l++)
            weight_grad.emplace_back(net.size[l] * net.size[l + 1], T(0));
    }

    T* at(int array, int64_t layer) { return data.data() + (array * (net.layers + 1) + layer) * chunk_rows * width; }

    // rows [count, size] <-> scratch [count, width]
    void read(T* to, const T* from, int count, int64_t size) const {
        for (int r = 0; r < count; r++) std::copy(from + r * size, from + (r + 1) * size, to + r * width);
    }
    void write(T* to, const T* from, int count, int64_t size) const {
        for (int r = 0; r < count; r++) std::copy(from + r * width, from + r * width + size, to + r * size);
    }
    // W_l's gradient += left^T right
    void add_weight(int64_t l, const T* left, const T* right, int count) {
        const int64_t a = net.size[l], b = net.size[l + 1];
        multiply<T>({left, 1, width}, in_place(right, width), weight_grad[l].data(), b, static_cast<int>(a),
                    static_cast<int>(b), count, true);
    }
    // to [count, size of l] = or += from [count, size of l + 1] W_l^T
    void down(const Packed<T>& transposed, int64_t l, const T* from, T* to, int count, bool more) const {
        const int64_t columns = padded(net.size[l], Simd<T>::lanes);
        multiply<T>({from, width, 1}, transposed[0], to, width, count, static_cast<int>(columns),
                    static_cast<int>(net.size[l + 1]), more);
    }
    void up(const Packed<T>& w, int64_t l, const T* from, T* to, int count, bool more) const {
        multiply<T>({from, width, 1}, w[0], to, width, count, static_cast<int>(net.size[l + 1]),
                    static_cast<int>(net.size[l]), more);
    }
};

enum { values, arguments, slopes, curves, chain, sent, along, towards };

// Activations into `values`, derivatives into `slopes` and, on demand, `curves`.
template <class T>
void activate(const Network& net, Scratch<T>& s, const Weights<T>& weights, const T* x, int count, int derivatives) {
    s.read(s.at(values, 0), x, count, net.size[0]);
    for (int64_t l = 0; l < net.layers; l++) {
        T* z = s.at(arguments, l + 1);
        s.up(weights.w[l], l, s.at(values, l), z, count, false);
        silu<T>(z, count * s.width, s.at(values, l + 1), derivatives > 0 ? s.at(slopes, l + 1) : nullptr,
                derivatives > 1 ? s.at(curves, l + 1) : nullptr);
    }
}

template <class T>
void times(const T* a, const T* b, T* to, int64_t size) {
    for (int64_t i = 0; i < size; i++) to[i] = a[i] * b[i];
}

// Calls work(scratch, first row, rows) for all chunks; afterwards the threads' parts of the weights' gradients are
// summed into grad, where it is given.
template <class T, class Work>
void in_chunks(const Network& net, int arrays, T* const* grad, Work work) {
    const int threads = static_cast<int>(net.threads);
    std::vector<Scratch<T>> parts;
    for (int t = 0; t < threads; t++) parts.emplace_back(net, arrays, grad != nullptr);
    in_threads(threads, [&](int t) {
        const int64_t stop = net.items * (t + 1) / threads;
        for (int64_t r = net.items * t / threads; r < stop; r += chunk_rows)
            work(parts[t], r, static_cast<int>(std::min<int64_t>(chunk_rows, stop - r)));
    });
    for (int64_t l = 0; grad && l < net.layers; l++)
        for (int64_t i = 0; i < net.size[l] * net.size[l + 1]; i++) {
            T total = parts[0].weight_grad[l][i];
            for (int t = 1; t < threads; t++) total += parts[t].weight_grad[l][i];
            grad[l][i] = total;
        }
}

template <class T>
void forward(const Network& net, const T* x, const T* const* weight, T* out) {
    const Weights<T> weights(net, weight, false);
    const int64_t last = net.layers, n = net.size[last];
    in_chunks<T>(net, 2, nullptr, [&](Scratch<T>& s, int64_t row, int count) {
        activate(net, s, weights, x + row * net.size[0], count, 0);
        s.write(out + row * n, s.at(values, last), count, n);
    });
}

// u_l = g_l silu'(z_l) into `sent`, g_{l-1} = u_l W_l^T into `chain`; g of the input where it is wanted.
template <class T>
void descend(const Network& net, Scratch<T>& s, const Weights<T>& weights, const T* grad, int count, bool input) {
    const int64_t last = net.layers, n = net.size[last];
    s.read(s.at(chain, last), grad, count, n);
    for (int64_t l = last; l > 0; l--) {
        times(s.at(chain, l), s.at(slopes, l), s.at(sent, l), count * s.width);
        if (l > 1 || input) s.down(weights.transposed[l - 1], l - 1, s.at(sent, l), s.at(chain, l - 1), count, false);
    }
}

template <class T>
void gradient(const Network& net, const T* grad, const T* x, const T* const* weight, T* x_grad, T* const* w_grad) {
    const Weights<T> weights(net, weight, true);
    const int64_t n = net.size[net.layers], inputs = net.size[0];
    in_chunks<T>(net, 6, w_grad, [&](Scratch<T>& s, int64_t row, int count) {
        activate(net, s, weights, x + row * inputs, count, 1);
        descend(net, s, weights, grad + row * n, count, x_grad != nullptr);
        if (x_grad) s.write(x_grad + row * inputs, s.at(chain, 0), count, inputs);
        for (int64_t l = 0; w_grad && l < net.layers; l++) s.add_weight(l, s.at(values, l), s.at(sent, l + 1), count);
    });
}

// The gradient of <v, dE/d(x, W)>: up along the chain of dE/da, then down along that of a.
template <class T>
struct Second {
    const Network& net;
    const T *grad, *x, *v_x;  // v_x may be null
    const Weights<T> weights;
    const std::vector<bool> moves;  // whether v moves W_l
    const Weights<T> v_weights;
    T *grad_out, *x_out;  // the second may be null

    void operator()(Scratch<T>& s, int64_t row, int count) const {
        const int64_t inputs = net.size[0], n = net.size[net.layers], size = count * s.width;
        activate(net, s, weights, x + row * inputs, count, 2);
        descend(net, s, weights, grad + row * n, count, false);
        std::fill(s.at(along, 0), s.at(along, 0) + size, T(0));
        if (v_x) s.read(s.at(along, 0), v_x + row * inputs, count, inputs);
        for (int64_t l = 0; l < net.layers; l++) {
            T* up = s.at(along, l + 1);
            s.add_weight(l, s.at(along, l), s.at(sent, l + 1), count);
            s.up(weights.w[l], l, s.at(along, l), up, count, false);
            if (moves[l]) s.up(v_weights.w[l], l, s.at(values, l), up, count, true);
            const T *g = s.at(chain, l + 1), *curve = s.at(curves, l + 1), *slope = s.at(slopes, l + 1);
            T* total = s.at(towards, l + 1);
            for (int64_t i = 0; i < size; i++) {
                total[i] = g[i] * curve[i] * up[i];
                up[i] *= slope[i];
            }
        }
        s.write(grad_out + row * n, s.at(along, net.layers), count, n);
        down(s, row, count);
    }

    void down(Scratch<T>& s, int64_t row, int count) const {
        const int64_t size = count * s.width;
        for (int64_t l = net.layers - 1; l >= 0; l--) {
            T* total = s.at(towards, l + 1);
            if (l + 1 < net.layers) {
                const T *below = s.at(chain, l + 1), *slope = s.at(slopes, l + 1);
                for (int64_t i = 0; i < size; i++) total[i] += below[i] * slope[i];
            }
            s.add_weight(l, s.at(values, l), total, count);
            if (l == 0 && !x_out) return;
            s.down(weights.transposed[l], l, total, s.at(chain, l), count, false);
            if (moves[l]) s.down(v_weights.transposed[l], l, s.at(sent, l + 1), s.at(chain, l), count, true);
        }
        s.write(x_out + row * net.size[0], s.at(chain, 0), count, net.size[0]);
    }
};

template <class T>
void second(const Network& net, const T* grad, const T* x, const T* const* weight, const T* v_x,
            const T* const* v_weight, T* grad_out, T* x_out, T* const* weight_out) {
    std::vector<bool> moves(net.layers);
    std::vector<const T*> moved(net.layers);
    for (int64_t l = 0; l < net.layers; l++) {
        moves[l] = v_weight[l] != nullptr;
        moved[l] = moves[l] ? v_weight[l] : weight[l];
    }
    const Second<T> pass{net, grad, x, v_x, Weights<T>(net, weight, true), moves, Weights<T>(net, moved.data(), true),
                         grad_out, x_out};
    in_chunks<T>(net, 8, weight_out, pass);
}

}  // namespace

#define EXPORT(T, suffix)                                                                                          \
    extern "C" void network_forward_##suffix(const Network* net, const T* x, const T* const* weight, T* out) {     \
        forward<T>(*net, x, weight, out);                                                                          \
    }                                                                                                              \
    extern "C" void network_gradient_##suffix(const Network* net, const T* grad, const T* x,                       \
                                              const T* const* weight, T* x_grad, T* const* weight_grad) {          \
        gradient<T>(*net, grad, x, weight, x_grad, weight_grad);                                                   \
    }                                                                                                              \
    extern "C" void network_second_##suffix(const Network* net, const T* grad, const T* x, const T* const* weight, \
                                            const T* v_x, const T* const* v_weight, T* grad_out, T* x_out,         \
                                            T* const* weight_out) {                                                \
        second<T>(*net, grad, x, weight, v_x, v_weight, grad_out, x_out, weight_out);                              \
    }

EXPORT(float, float32)
EXPORT(double, float64)
