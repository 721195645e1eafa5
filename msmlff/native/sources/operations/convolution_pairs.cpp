// The convolution where edges share phi: those of both directions between two atoms have the same distance. R is
// formed once for such a pair, and its gradient summed over the two edges before it meets W: half the arithmetic.
//
// A section of rows at a time, frames or parts of them: R of its pairs and of some paths, then the products of its
// edges, then, in the derivatives, what the pairs get from their edges. Each step is shared by all threads.
#include "convolution_kernels.h"

namespace {

// Shape::edges is the number of items of phi.
struct Pairs : Shape {
    const int64_t* pair;  // [edges] the item of each edge; an item has two edges at most
};

constexpr int64_t section_edges = 1024, section_at_most = 4096, group_bytes = 1024;
constexpr int block = 64;

struct Section {
    int64_t begin, end;         // rows
    std::vector<int64_t> item;  // the items its edges have
    std::vector<int64_t> edge;  // [items, 2] the edges of each in this section; -1 where there is no second
};

// Sections end where no edge crosses, once they are large enough; slot: an edge's place in its section's items.
std::vector<Section> cut(const Pairs& s, std::vector<int64_t>& slot) {
    std::vector<Section> sections;
    std::vector<int64_t> place(s.edges, -1), of(s.edges, -1);
    slot.resize(s.row_ptr[s.atoms]);
    Section now{0, 0, {}, {}};
    int64_t highest = -1;
    for (int64_t row = 0; row < s.atoms; row++) {
        const int64_t number = sections.size();
        for (int64_t e = s.row_ptr[row]; e < s.row_ptr[row + 1]; e++) {
            const int64_t item = s.pair[e];
            highest = std::max(highest, s.sender[e]);
            if (of[item] != number) {
                of[item] = number;
                place[item] = now.item.size();
                now.item.push_back(item);
                now.edge.insert(now.edge.end(), {e, -1});
            } else {
                now.edge[2 * place[item] + 1] = e;
            }
            slot[e] = place[item];
        }
        const int64_t size = s.row_ptr[row + 1] - s.row_ptr[now.begin];
        const bool large = size >= section_at_most || (size >= section_edges && highest <= row);
        if (!large && row + 1 < s.atoms) continue;
        now.end = row + 1;
        sections.push_back(std::move(now));
        now = Section{row + 1, row + 1, {}, {}};
    }
    return sections;
}

// Paths first .. last whose R is formed together.
struct Group {
    int64_t first, last, width;
};

// What all passes share: sections, groups of paths, each thread's chunk.
template <class T>
struct Plan {
    const Pairs& s;
    const int threads;
    std::vector<int64_t> slot;
    std::vector<Section> sections;
    std::vector<Group> groups;
    std::vector<Chunk<T>> chunks;
    std::vector<Projection<T>> projections;
    std::vector<std::vector<T>> scratch;  // of a thread, for a block of items
    int64_t most_items = 0, most_edges = 0, width = 0;

    explicit Plan(const Pairs& shape) : s(shape), threads(static_cast<int>(shape.threads)), sections(cut(shape, slot)) {
        const int64_t count = std::max<int64_t>(1, group_bytes / (s.channels * sizeof(T)));
        for (int64_t p = 0; p < s.paths; p += count) {
            const int64_t last = std::min(s.paths, p + count);
            groups.push_back({p, last, (last - p) * s.channels});
            width = std::max(width, groups.back().width);
        }
        for (const Section& c : sections) {
            most_items = std::max<int64_t>(most_items, c.item.size());
            most_edges = std::max(most_edges, s.row_ptr[c.end] - s.row_ptr[c.begin]);
        }
        chunks.reserve(threads);
        projections.reserve(threads);
        for (int t = 0; t < threads; t++) {
            chunks.emplace_back(s);
            projections.emplace_back(s);
        }
        scratch.resize(threads, std::vector<T>(2 * block * (s.radial + width) + block * s.radial));
    }

    // Calls work(thread, chunk, first edge) for the section's edges.
    template <class Work>
    void for_edges(const Section& c, const Group& group, const T* y, Work work) {
        const int64_t start = s.row_ptr[c.begin], size = s.row_ptr[c.end] - start;
        const auto part = [&](int t) {
            const int64_t* const from = s.row_ptr + c.begin;
            return t == threads ? c.end : std::lower_bound(from, s.row_ptr + c.end, start + size * t / threads) - s.row_ptr;
        };
        in_threads(threads, [&](int t) {
            const int64_t stop = s.row_ptr[part(t + 1)];
            int64_t row = part(t);
            Chunk<T>& chunk = chunks[t];
            for (int64_t e = s.row_ptr[row]; e < stop; e += chunk_edges) {
                chunk.move(e, stop, row, y);
                for (int i = 0; i < chunk.count; i++) {
                    chunk.read[i] = slot[e + i] * group.width;
                    chunk.written[i] = (e + i - start) * group.width;
                }
                work(t, chunk, e);
            }
        });
    }

    // Calls work(thread, first item, count) for the section's items.
    template <class Work>
    void for_items(const Section& c, Work work) {
        const int64_t items = c.item.size();
        in_threads(threads, [&](int t) {
            const int64_t stop = items * (t + 1) / threads;
            for (int64_t i = items * t / threads; i < stop; i += block)
                work(t, i, static_cast<int>(std::min<int64_t>(block, stop - i)));
        });
    }

    // Adds a chunk's gradient by Y, which begins with edge e, to that of all edges.
    void take(int thread, int64_t e, T* y_grad) {
        projections[thread].add_to(y_grad, e, chunks[thread].count);
        projections[thread].clear();
    }

    // phi of items first .. first + count of the section: where it lies, or copied to place 0 or 1 of the scratch.
    Left<T> phi_of(const Section& c, const T* phi, int thread, int64_t first, int count, int place) {
        const int64_t n = s.radial, *item = c.item.data() + first;
        bool in_order = true;
        for (int r = 1; r < count; r++) in_order &= item[r] == item[0] + r;
        if (in_order) return {phi + item[0] * n, n, 1};
        T* to = scratch[thread].data() + place * block * n;
        for (int r = 0; r < count; r++) std::copy(phi + item[r] * n, phi + (item[r] + 1) * n, to + r * n);
        return {to, n, 1};
    }

    // R [items, width] of a group's paths, or more to it.
    void form(const Section& c, const Group& g, const T* phi, const Packed<T>& w, std::vector<T>& radial, bool more) {
        for_items(c, [&](int t, int64_t first, int count) {
            const Left<T> left = phi_of(c, phi, t, first, count, 0);
            for (int64_t p = g.first; p < g.last; p++)
                multiply<T>(left, w[p], radial.data() + first * g.width + (p - g.first) * s.channels, g.width, count,
                            static_cast<int>(s.channels), static_cast<int>(s.radial), more);
        });
    }

    // The gradient by R of items, the sum of their edges', at place 0 or 1 of the scratch behind phi's.
    const T* summed(const Section& c, const Group& g, const std::vector<T>& grad, int thread, int64_t first, int count,
                    int place) {
        T* to = scratch[thread].data() + 2 * block * s.radial + place * block * width;
        const int64_t start = s.row_ptr[c.begin];
        for (int r = 0; r < count; r++) {
            const int64_t one = c.edge[2 * (first + r)], two = c.edge[2 * (first + r) + 1];
            const T* from = grad.data() + (one - start) * g.width;
            const T* other = grad.data() + (two - start) * g.width;
            for (int64_t k = 0; k < g.width; k++) to[r * g.width + k] = two < 0 ? from[k] : from[k] + other[k];
        }
        return to;
    }

    // Adds of_radial W^T to the items' gradient by phi.
    void down(const Section& c, const Group& g, const T* of_radial, const Packed<T>& transposed, int thread,
              int64_t first, int count, T* phi_grad) {
        const int64_t n = s.radial;
        T* product = scratch[thread].data() + 2 * block * (n + width);
        for (int64_t p = g.first; p < g.last; p++)
            multiply<T>({of_radial + (p - g.first) * s.channels, g.width, 1}, transposed[p], product, n, count,
                        static_cast<int>(n), static_cast<int>(s.channels), p > g.first);
        for (int r = 0; r < count; r++) {
            T* to = phi_grad + c.item[first + r] * n;
            for (int64_t j = 0; j < n; j++) to[j] += product[r * n + j];
        }
    }

    // Adds phi^T of_radial to a thread's part of the gradient by W, [n, width] of each group.
    void weigh(const Group& g, Left<T> phi, const T* of_radial, int count, std::vector<T>& part) {
        multiply<T>({phi.data, 1, phi.row_step}, in_place(of_radial, g.width),
                    part.data() + g.first * s.radial * s.channels, g.width, static_cast<int>(s.radial),
                    static_cast<int>(g.width), count, true);
    }

    // Those parts summed in order, [paths, n, channels].
    void sum_weights(const std::vector<std::vector<T>>& parts, T* to) const {
        for (const Group& g : groups)
            for (int64_t p = g.first; p < g.last; p++)
                for (int64_t j = 0; j < s.radial; j++)
                    for (int64_t k = 0; k < s.channels; k++) {
                        const int64_t at = g.first * s.radial * s.channels + j * g.width + (p - g.first) * s.channels + k;
                        T total = parts[0][at];
                        for (int t = 1; t < threads; t++) total += parts[t][at];
                        to[(p * s.radial + j) * s.channels + k] = total;
                    }
    }
};

// The gradient by h: each thread's part over all atoms, opened at once.
template <class T>
std::vector<T*> open(SenderParts<T>& parts, const Pairs& s) {
    std::vector<T*> pointers;
    for (int t = 0; t < s.threads; t++) pointers.push_back(parts.open(t, 0, s.row_ptr[s.atoms]));
    return pointers;
}

template <class T>
void clear(const Pairs& s, T* const* out) {
    for (int64_t p = 0; p < s.paths; p++) {
        const PathView<T> path(s, p);
        if (path.shift == 0) std::fill(out[path.l3], out[path.l3] + s.atoms * (2 * path.l3 + 1) * path.step, T(0));
    }
}

template <class T>
void pack(const Pairs& s, const T* weight, Packed<T>& w, Packed<T>& transposed) {
    const int64_t n = s.radial, k = s.channels;
    w.fill(weight, s.paths, n * k, n, k, k, 1);
    transposed.fill(weight, s.paths, n * k, k, n, 1, k);
}

template <class T>
struct Operands {
    const T *h, *phi, *weight, *y;
};

template <class T>
void forward(const Pairs& s, const Operands<T>& x, T* const* out) {
    Plan<T> plan(s);
    Packed<T> w;
    w.fill(x.weight, s.paths, s.radial * s.channels, s.radial, s.channels, s.channels, 1);
    std::vector<T> radial(plan.most_items * plan.width);
    clear<T>(s, out);
    for (const Section& c : plan.sections)
        for (const Group& g : plan.groups) {
            plan.form(c, g, x.phi, w, radial, false);
            plan.for_edges(c, g, x.y, [&](int, const Chunk<T>& chunk, int64_t) {
                for (int64_t p = g.first; p < g.last; p++) {
                    const PathView<T> path(s, p);
                    const T* r = radial.data() + (p - g.first) * s.channels;
                    dispatch<0, 0>(Forward<T>{s, chunk, path, x.h, r, out[path.l3]}, path.l1, path.l3);
                }
            });
        }
}

template <class T>
void gradient(const Pairs& s, const Operands<T>& x, const T* const* grad, T* const* to) {
    Plan<T> plan(s);
    Packed<T> w, transposed;
    pack<T>(s, x.weight, w, transposed);
    std::vector<T> radial(plan.most_items * plan.width), of_radial(plan.most_edges * plan.width);
    SenderParts<T> h_parts(s, plan.threads);
    const std::vector<T*> h_grad = open(h_parts, s);
    std::vector<std::vector<T>> w_parts(plan.threads, std::vector<T>(to[2] ? s.paths * s.radial * s.channels : 0));
    for (const Section& c : plan.sections)
        for (const Group& g : plan.groups) {
            plan.form(c, g, x.phi, w, radial, false);
            plan.for_edges(c, g, x.y, [&](int t, const Chunk<T>& chunk, int64_t e) {
                for (int64_t p = g.first; p < g.last; p++) {
                    const PathView<T> path(s, p);
                    const int64_t shift = (p - g.first) * s.channels;
                    const Backward<T> back{s, chunk, path, x.h, radial.data() + shift, grad[path.l3],
                                           of_radial.data() + shift, h_grad[t], to[3] ? &plan.projections[t] : nullptr};
                    dispatch<0, 0>(back, path.l1, path.l3);
                }
                if (to[3]) plan.take(t, e, to[3]);
            });
            if (!to[1] && !to[2]) continue;
            plan.for_items(c, [&](int t, int64_t first, int count) {
                const T* of_r = plan.summed(c, g, of_radial, t, first, count, 0);
                if (to[1]) plan.down(c, g, of_r, transposed, t, first, count, to[1]);
                if (to[2]) plan.weigh(g, plan.phi_of(c, x.phi, t, first, count, 0), of_r, count, w_parts[t]);
            });
        }
    h_parts.sum_to(to[0]);
    if (to[2]) plan.sum_weights(w_parts, to[2]);
}

template <class T>
void second(const Pairs& s, const Operands<T>& x, const Operands<T>& v, const T* const* grad, T* const* to,
            T* const* out) {
    Plan<T> plan(s);
    Packed<T> w, transposed, v_w, v_transposed;
    pack<T>(s, x.weight, w, transposed);
    const bool moves = v.weight != nullptr;
    if (moves) pack<T>(s, v.weight, v_w, v_transposed);
    const int64_t items = plan.most_items * plan.width, edges = plan.most_edges * plan.width;
    std::vector<T> radial(items), v_radial(items), of_radial(edges), of_v_radial(edges);
    SenderParts<T> h_parts(s, plan.threads);
    const std::vector<T*> h_grad = open(h_parts, s);
    std::vector<std::vector<T>> w_parts(plan.threads, std::vector<T>(to[2] ? s.paths * s.radial * s.channels : 0));
    std::vector<std::vector<T>> v_q(plan.threads, std::vector<T>(s.products * chunk_edges));
    clear<T>(s, out);
    for (const Section& c : plan.sections)
        for (const Group& g : plan.groups) {
            plan.form(c, g, x.phi, w, radial, false);
            plan.form(c, g, v.phi, w, v_radial, false);
            if (moves) plan.form(c, g, x.phi, v_w, v_radial, true);
            plan.for_edges(c, g, x.y, [&](int t, const Chunk<T>& chunk, int64_t e) {
                chunk.angular(v.y, v_q[t]);
                for (int64_t p = g.first; p < g.last; p++) {
                    const PathView<T> path(s, p);
                    const int64_t shift = (p - g.first) * s.channels;
                    const Second<T> pass{s, chunk, path, v_q[t].data(), x.h, v.h, radial.data() + shift,
                                         v_radial.data() + shift, grad[path.l3], out[path.l3],
                                         of_radial.data() + shift, of_v_radial.data() + shift, h_grad[t],
                                         to[3] ? &plan.projections[t] : nullptr};
                    dispatch<0, 0>(pass, path.l1, path.l3);
                }
                if (to[3]) plan.take(t, e, to[3]);
            });
            plan.for_items(c, [&](int t, int64_t first, int count) {
                const T* of_r = plan.summed(c, g, of_radial, t, first, count, 0);
                const T* of_vr = plan.summed(c, g, of_v_radial, t, first, count, 1);
                if (to[1]) plan.down(c, g, of_r, transposed, t, first, count, to[1]);
                if (to[1] && moves) plan.down(c, g, of_vr, v_transposed, t, first, count, to[1]);
                if (!to[2]) return;
                plan.weigh(g, plan.phi_of(c, x.phi, t, first, count, 0), of_r, count, w_parts[t]);
                plan.weigh(g, plan.phi_of(c, v.phi, t, first, count, 1), of_vr, count, w_parts[t]);
            });
        }
    h_parts.sum_to(to[0]);
    if (to[2]) plan.sum_weights(w_parts, to[2]);
}

}  // namespace

// Gradients by phi and Y are added to.
#define EXPORT(T, suffix)                                                                                          \
    extern "C" void pairs_forward_##suffix(const Pairs* s, const T* const* x, T* const* out) {                     \
        forward<T>(*s, {x[0], x[1], x[2], x[3]}, out);                                                             \
    }                                                                                                              \
    extern "C" void pairs_gradient_##suffix(const Pairs* s, const T* const* x, const T* const* grad, T* const* to) { \
        gradient<T>(*s, {x[0], x[1], x[2], x[3]}, grad, to);                                                       \
    }                                                                                                              \
    extern "C" void pairs_second_##suffix(const Pairs* s, const T* const* x, const T* const* v,                    \
                                          const T* const* grad, T* const* to, T* const* out) {                     \
        second<T>(*s, {x[0], x[1], x[2], x[3]}, {v[0], v[1], v[2], v[3]}, grad, to, out);                          \
    }

EXPORT(float, float32)
EXPORT(double, float64)
