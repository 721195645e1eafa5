// The gate of NequIP and its first and second derivatives. Rows of an atom: the scalars, a gate for each l = 1 ..,
// then the components (l, m) of l = 1 ..; out_0 = c silu(x_0), out_lm = x_lm c silu(gate_l).
#include "silu.h"

namespace {

struct Shape {
    int64_t atoms, l_max, channels, threads;
};

// c silu and its derivatives at x.
template <class T>
struct Silu {
    Vec<T> value, slope, curve;

    INLINE Silu(const T* at, T c) {
        const Vec<T> x = load(at);
        const Vec<T> s = T(1) / (T(1) + exponential<T>(-x));
        value = c * x * s;
        slope = c * s * (T(1) + x * (T(1) - s));
        curve = c * s * (T(1) - s) * (T(2) + x * (T(1) - T(2) * s));
    }
};

// Calls work(offset of the atom's input rows, of its output rows), each with that of the channels added.
template <class Work>
void for_vectors(const Shape& s, int lanes, Work work) {
    const int threads = static_cast<int>(s.threads);
    const int64_t out = (s.l_max + 1) * (s.l_max + 1) * s.channels, in = out + s.l_max * s.channels;
    in_threads(threads, [&](int t) {
        for (int64_t i = s.atoms * t / threads; i < s.atoms * (t + 1) / threads; i++)
            for (int64_t k = 0; k < s.channels; k += lanes) work(i * in + k, i * out + k);
    });
}

template <class T>
void forward(const Shape& s, T c, const T* x, T* out) {
    const int64_t n = s.channels;
    for_vectors(s, Simd<T>::lanes, [&](int64_t in, int64_t to) {
        store(out + to, Silu<T>(x + in, c).value);
        for (int64_t l = 1; l <= s.l_max; l++) {
            const Vec<T> factor = Silu<T>(x + in + l * n, c).value;
            for (int64_t m = l * l; m < (l + 1) * (l + 1); m++)
                store(out + to + m * n, factor * load(x + in + (s.l_max + m) * n));
        }
    });
}

template <class T>
void gradient(const Shape& s, T c, const T* x, const T* grad, T* x_grad) {
    const int64_t n = s.channels;
    for_vectors(s, Simd<T>::lanes, [&](int64_t in, int64_t from) {
        store(x_grad + in, load(grad + from) * Silu<T>(x + in, c).slope);
        for (int64_t l = 1; l <= s.l_max; l++) {
            const Silu<T> gate(x + in + l * n, c);
            Vec<T> of_gate = {};
            for (int64_t m = l * l; m < (l + 1) * (l + 1); m++) {
                const Vec<T> g = load(grad + from + m * n);
                of_gate += g * load(x + in + (s.l_max + m) * n);
                store(x_grad + in + (s.l_max + m) * n, g * gate.value);
            }
            store(x_grad + in + l * n, of_gate * gate.slope);
        }
    });
}

// The gradient of <v, gradient(x, grad)> by x and by grad.
template <class T>
void second(const Shape& s, T c, const T* x, const T* grad, const T* v, T* x_grad, T* grad_grad) {
    const int64_t n = s.channels;
    for_vectors(s, Simd<T>::lanes, [&](int64_t in, int64_t from) {
        const Silu<T> scalar(x + in, c);
        const Vec<T> v_scalar = load(v + in);
        store(x_grad + in, v_scalar * load(grad + from) * scalar.curve);
        store(grad_grad + from, v_scalar * scalar.slope);
        for (int64_t l = 1; l <= s.l_max; l++) {
            const Silu<T> gate(x + in + l * n, c);
            const Vec<T> v_gate = load(v + in + l * n) * gate.slope;
            Vec<T> product = {}, v_product = {};
            for (int64_t m = l * l; m < (l + 1) * (l + 1); m++) {
                const int64_t at = in + (s.l_max + m) * n;
                const Vec<T> g = load(grad + from + m * n), part = load(x + at), v_part = load(v + at);
                product += g * part;
                v_product += g * v_part;
                store(x_grad + at, v_gate * g);
                store(grad_grad + from + m * n, v_part * gate.value + v_gate * part);
            }
            store(x_grad + in + l * n, v_product * gate.slope + product * load(v + in + l * n) * gate.curve);
        }
    });
}

}  // namespace

#define EXPORT(T, suffix)                                                                                       \
    extern "C" void gate_forward_##suffix(const Shape* s, double c, const T* x, T* out) {                       \
        forward<T>(*s, static_cast<T>(c), x, out);                                                              \
    }                                                                                                           \
    extern "C" void gate_gradient_##suffix(const Shape* s, double c, const T* x, const T* grad, T* x_grad) {    \
        gradient<T>(*s, static_cast<T>(c), x, grad, x_grad);                                                    \
    }                                                                                                           \
    extern "C" void gate_second_##suffix(const Shape* s, double c, const T* x, const T* grad, const T* v,       \
                                         T* x_grad, T* grad_grad) {                                             \
        second<T>(*s, static_cast<T>(c), x, grad, v, x_grad, grad_grad);                                        \
    }

EXPORT(float, float32)
EXPORT(double, float64)
