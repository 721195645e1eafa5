// The innermost loops of the convolution: one path of a chunk of edges. R of an edge lies where chunk.read says, its
// gradient goes where chunk.written says.
#pragma once

#include "convolution.h"

template <class T>
struct Forward {
    const Shape& s;
    const Chunk<T>& chunk;
    const PathView<T>& path;
    const T *h, *radial;
    T* out;

    template <int d1, int d3>
    void run() const {
        const int64_t channels = s.channels, l1 = path.l1;
        const T* q = chunk.q.data() + path.product * chunk_edges;
        for (const Segment& segment : chunk.segments)
            for (int64_t k = 0; k < channels; k += Simd<T>::lanes) {
                Vec<T> total[d3] = {};
                for (int e = segment.begin; e < segment.end; e++) {
                    const Vec<T> r = load(radial + chunk.read[e] + k);
                    const T* sent = h + chunk.sent[e] + l1 * l1 * channels + k;
                    for (int m1 = 0; m1 < d1; m1++) {
                        const Vec<T> message = r * load(sent + m1 * channels);
                        for (int m3 = 0; m3 < d3; m3++)
                            total[m3] += q[(m1 * d3 + m3) * chunk_edges + e] * message;
                    }
                }
                T* to = out + path.out(segment.row) + k;
                for (int m3 = 0; m3 < d3; m3++) add(to + m3 * path.step, total[m3]);
            }
    }
};

template <class T>
struct Backward {
    const Shape& s;
    const Chunk<T>& chunk;
    const PathView<T>& path;
    const T *h, *radial, *grad;
    T *radial_grad, *h_grad;
    Projection<T>* projection;  // null where the gradient by Y is not wanted

    template <int d1, int d3>
    void run() const {
        spread<d1, d3>();
        if (projection) project<d1, d3>();
    }

    template <int d1, int d3>
    void spread() const {
        const int64_t channels = s.channels, first = path.l1 * path.l1 * channels;
        const T* q = chunk.q.data() + path.product * chunk_edges;
        for (const Segment& segment : chunk.segments)
            for (int64_t k = 0; k < channels; k += Simd<T>::lanes) {
                Vec<T> g[d3];
                for (int m3 = 0; m3 < d3; m3++) g[m3] = load(grad + path.out(segment.row) + m3 * path.step + k);
                for (int e = segment.begin; e < segment.end; e++) {
                    const Vec<T> r = load(radial + chunk.read[e] + k);
                    const int64_t at = chunk.sent[e] + first + k;
                    Vec<T> of_radial = {};
                    for (int m1 = 0; m1 < d1; m1++) {
                        Vec<T> message = {};
                        for (int m3 = 0; m3 < d3; m3++)
                            message += q[(m1 * d3 + m3) * chunk_edges + e] * g[m3];
                        of_radial += message * load(h + at + m1 * channels);
                        add(h_grad + at + m1 * channels, r * message);
                    }
                    store(radial_grad + chunk.written[e] + k, of_radial);
                }
            }
    }

    template <int d1, int d3>
    void project() const {
        const int64_t channels = s.channels;
        for (const Segment& segment : chunk.segments)
            for (int e = segment.begin; e < segment.end; e++) {
                Vec<T> total[d1 * d3] = {};
                const T* sent = h + chunk.sent[e] + path.l1 * path.l1 * channels;
                const T* g = grad + path.out(segment.row);
                for (int64_t k = 0; k < channels; k += Simd<T>::lanes) {
                    const Vec<T> r = load(radial + chunk.read[e] + k);
                    Vec<T> message[d1];
                    for (int m1 = 0; m1 < d1; m1++) message[m1] = r * load(sent + m1 * channels + k);
                    for (int m3 = 0; m3 < d3; m3++) {
                        const Vec<T> gm = load(g + m3 * path.step + k);
                        for (int m1 = 0; m1 < d1; m1++) total[m1 * d3 + m3] += message[m1] * gm;
                    }
                }
                projection->add(path.index, e, total);
            }
    }
};

template <class T>
struct Second {
    const Shape& s;
    const Chunk<T>& chunk;
    const PathView<T>& path;
    const T *v_q, *h, *v_h, *radial, *v_radial, *grad;
    T *out, *of_radial, *of_v_radial, *h_grad;
    Projection<T>* projection;  // null where the gradient by Y is not wanted

    template <int d1, int d3>
    void run() const {
        move<d1, d3>();
        if (projection) project<d1, d3>();
    }

    template <int d1, int d3>
    void move() const {
        const int64_t channels = s.channels, first = path.l1 * path.l1 * channels;
        const T* q = chunk.q.data() + path.product * chunk_edges;
        const T* vq = v_q + path.product * chunk_edges;
        for (const Segment& segment : chunk.segments)
            for (int64_t k = 0; k < channels; k += Simd<T>::lanes) {
                const int64_t start = path.out(segment.row) + k;
                Vec<T> g[d3], total[d3] = {};
                for (int m3 = 0; m3 < d3; m3++) g[m3] = load(grad + start + m3 * path.step);
                for (int e = segment.begin; e < segment.end; e++) {
                    const Vec<T> r = load(radial + chunk.read[e] + k), vr = load(v_radial + chunk.read[e] + k);
                    const int64_t at = chunk.sent[e] + first + k;
                    Vec<T> by_r = {}, by_vr = {};
                    for (int m1 = 0; m1 < d1; m1++) {
                        const Vec<T> x = load(h + at + m1 * channels), vx = load(v_h + at + m1 * channels);
                        const Vec<T> message = r * x, v_message = vr * x + r * vx;
                        Vec<T> along = {}, v_along = {};
                        for (int m3 = 0; m3 < d3; m3++) {
                            const T a = q[(m1 * d3 + m3) * chunk_edges + e];
                            const T va = vq[(m1 * d3 + m3) * chunk_edges + e];
                            total[m3] += a * v_message;
                            total[m3] += va * message;
                            along += a * g[m3];
                            v_along += va * g[m3];
                        }
                        by_vr += along * x;
                        by_r += along * vx;
                        by_r += v_along * x;
                        add(h_grad + at + m1 * channels, along * vr + v_along * r);
                    }
                    store(of_radial + chunk.written[e] + k, by_r);
                    store(of_v_radial + chunk.written[e] + k, by_vr);
                }
                for (int m3 = 0; m3 < d3; m3++) add(out + start + m3 * path.step, total[m3]);
            }
    }

    template <int d1, int d3>
    void project() const {
        const int64_t channels = s.channels, first = path.l1 * path.l1 * channels;
        for (const Segment& segment : chunk.segments)
            for (int e = segment.begin; e < segment.end; e++) {
                Vec<T> total[d1 * d3] = {};
                const T* g = grad + path.out(segment.row);
                for (int64_t k = 0; k < channels; k += Simd<T>::lanes) {
                    const Vec<T> r = load(radial + chunk.read[e] + k), vr = load(v_radial + chunk.read[e] + k);
                    const int64_t at = chunk.sent[e] + first + k;
                    for (int m1 = 0; m1 < d1; m1++) {
                        const Vec<T> v_message = vr * load(h + at + m1 * channels) + r * load(v_h + at + m1 * channels);
                        for (int m3 = 0; m3 < d3; m3++)
                            total[m1 * d3 + m3] += v_message * load(g + m3 * path.step + k);
                    }
                }
                projection->add(path.index, e, total);
            }
    }
};
