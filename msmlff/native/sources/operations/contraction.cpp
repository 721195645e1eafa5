// Symmetric polynomials F_M(x) of each atom and channel, as sums over groups (M, p) of monomials with one lower factor
// in common: F_M = sum_p value_p sum_t c_t x_k(t). The lower monomials form a tree: a node is its parent's monomial
// times one variable, node 0 the constant 1. Values go down the tree, gradients (reverse mode) up again, both with
// their tangents for the second derivative; coefficients belong to the atom's species and the channel.
#include "common.h"

namespace {

struct Tree {
    int64_t atoms, dim, channels, outputs, nodes, terms, species, threads;
    const int32_t* variable;  // [nodes], last factor of a lower monomial
    const int32_t* child;     // [nodes + 1], where the children of each node begin: they follow it
    const int32_t* output;    // [outputs + 1], where the groups of each output begin
    const int32_t* node;      // [groups], the lower monomial of each group
    const int32_t* group;     // [groups + 1], where the terms of each group begin
    const int32_t* last;      // [terms], the factor that makes the lower monomial the whole one
    const int64_t* order;     // [atoms], sorted by species
    const int64_t* kind;      // [atoms], species
};

// One vector for each of several atoms.
template <class T, int count>
struct Several {
    Vec<T> of[count];

    INLINE Several& operator+=(const Several& b) {
        for (int i = 0; i < count; i++) of[i] += b.of[i];
        return *this;
    }
    friend INLINE Several operator+(Several a, const Several& b) { return a += b; }
    friend INLINE Several operator*(Several a, const Several& b) {
        for (int i = 0; i < count; i++) a.of[i] *= b.of[i];
        return a;
    }
    friend INLINE Several operator*(Vec<T> a, Several b) {
        for (int i = 0; i < count; i++) b.of[i] *= a;
        return b;
    }
    INLINE Vec<T> sum() const {
        Vec<T> total = of[0];
        for (int i = 1; i < count; i++) total += of[i];
        return total;
    }
};

// Several atoms of one species, one vector of channels: what a walk through the tree costs is shared.
template <class T, int count>
struct Pass {
    using V = Several<T, count>;
    const Tree& tree;
    const int64_t step;
    std::vector<V> x, v, value, tangent, adjoint, adjoint_tangent, x_grad;
    int64_t atom[count] = {}, channel = 0;

    explicit Pass(const Tree& t)
        : tree(t), step(t.channels), x(t.dim), v(t.dim), value(t.nodes), tangent(t.nodes), adjoint(t.nodes),
          adjoint_tangent(t.nodes), x_grad(t.dim) {
        for (int i = 0; i < count; i++) value[0].of[i] += T(1);
    }

    // row of the atoms' [rows, channels]
    INLINE V get(const T* from, int64_t rows, int64_t row) const {
        V out;
        for (int i = 0; i < count; i++) out.of[i] = load(from + (atom[i] * rows + row) * step + channel);
        return out;
    }
    INLINE void put(T* to, int64_t rows, int64_t row, const V& a) const {
        for (int i = 0; i < count; i++) store(to + (atom[i] * rows + row) * step + channel, a.of[i]);
    }
    // the coefficients of the atoms' species, or what is summed for them
    template <class P>
    P* of_species(P* c) const {
        return c ? c + tree.kind[atom[0]] * tree.terms * step + channel : nullptr;
    }

    void read(std::vector<V>& to, const T* from) const {
        for (int64_t i = 0; i < tree.dim; i++) to[i] = get(from, tree.dim, i);
    }

    void write(T* to) const {
        for (int64_t i = 0; i < tree.dim; i++) put(to, tree.dim, i, x_grad[i]);
    }

    void values() {
        for (int64_t p = 0; p < tree.nodes; p++) {
            const V parent = value[p];
            for (int32_t i = tree.child[p]; i < tree.child[p + 1]; i++) value[i] = parent * x[tree.variable[i]];
        }
    }

    void tangents() {
        for (int64_t p = 0; p < tree.nodes; p++) {
            const V parent = value[p], moved = tangent[p];
            for (int32_t i = tree.child[p]; i < tree.child[p + 1]; i++) {
                const int32_t a = tree.variable[i];
                tangent[i] = moved * x[a] + parent * v[a];
            }
        }
    }

    // the sum over the terms of group j of c times y
    V inner(int64_t j, const T* c, const std::vector<V>& y) const {
        V total = {};
        for (int32_t t = tree.group[j]; t < tree.group[j + 1]; t++) total += load(c + t * step) * y[tree.last[t]];
        return total;
    }

    void contract(const T* c, T* out) const {
        for (int64_t m = 0; m < tree.outputs; m++) {
            V total = {};
            for (int32_t j = tree.output[m]; j < tree.output[m + 1]; j++) total += value[tree.node[j]] * inner(j, c, x);
            put(out, tree.outputs, m, total);
        }
    }

    // calls work(group, node, g_M) for all groups
    template <class Work>
    INLINE void for_groups(const T* g, Work work) const {
        for (int64_t m = 0; m < tree.outputs; m++) {
            const V of_output = get(g, tree.outputs, m);
            for (int32_t j = tree.output[m]; j < tree.output[m + 1]; j++) work(j, tree.node[j], of_output);
        }
    }

    // x_grad += c times a for the terms of group j
    INLINE void spread(int64_t j, const T* c, const V& a) {
        for (int32_t t = tree.group[j]; t < tree.group[j + 1]; t++) x_grad[tree.last[t]] += load(c + t * step) * a;
    }

    // c_grad += a times x (+ b times v) for the terms of group j
    INLINE void weigh(int64_t j, T* c_grad, const V& a) const {
        for (int32_t t = tree.group[j]; t < tree.group[j + 1]; t++) add(c_grad + t * step, (a * x[tree.last[t]]).sum());
    }
    INLINE void weigh(int64_t j, T* c_grad, const V& a, const V& b) const {
        for (int32_t t = tree.group[j]; t < tree.group[j + 1]; t++)
            add(c_grad + t * step, (a * x[tree.last[t]] + b * v[tree.last[t]]).sum());
    }

    // x_grad = dE/dx from dE/dF = g
    void reverse(const T* c, const T* g) {
        std::fill(x_grad.begin(), x_grad.end(), V{});
        std::fill(adjoint.begin(), adjoint.end(), V{});
        for_groups(g, [&](int32_t j, int32_t p, const V& of_output) {
            adjoint[p] += of_output * inner(j, c, x);
            spread(j, c, of_output * value[p]);
        });
        for (int64_t p = tree.nodes - 1; p >= 0; p--) {
            const V here = value[p];
            V total = adjoint[p];
            for (int32_t i = tree.child[p]; i < tree.child[p + 1]; i++) {
                const int32_t a = tree.variable[i];
                total += adjoint[i] * x[a];
                x_grad[a] += adjoint[i] * here;
            }
            adjoint[p] = total;
        }
    }

    // the tangent along v of reverse, from the tangents of the adjoints: added to x_grad
    void reverse_tangent() {
        for (int64_t p = tree.nodes - 1; p >= 0; p--) {
            const V here = value[p], moved = tangent[p];
            V total = adjoint[p], total_tangent = adjoint_tangent[p];
            for (int32_t i = tree.child[p]; i < tree.child[p + 1]; i++) {
                const int32_t a = tree.variable[i];
                const V of_child = adjoint[i], of_tangent = adjoint_tangent[i];
                total += of_child * x[a];
                total_tangent += of_tangent * x[a];
                total_tangent += of_child * v[a];
                x_grad[a] += of_tangent * here + of_child * moved;
            }
            adjoint[p] = total;
            adjoint_tangent[p] = total_tangent;
        }
    }

    // The derivatives of <v, dE/dx> + <v_c, dE/dc> by x into x_grad, by g into g_out, by c added to c_out. v_c and
    // c_out may be null.
    void second(const T* c, const T* v_c, const T* g, T* g_out, T* c_out) {
        for (auto* zeroed : {&x_grad, &adjoint, &adjoint_tangent}) std::fill(zeroed->begin(), zeroed->end(), V{});
        for (int64_t m = 0; m < tree.outputs; m++) {
            const V of_output = get(g, tree.outputs, m);
            V total = {};
            for (int32_t j = tree.output[m]; j < tree.output[m + 1]; j++) {
                const int32_t p = tree.node[j];
                const V here = inner(j, c, x), moved = inner(j, c, v);
                total += tangent[p] * here + value[p] * moved;
                adjoint[p] += of_output * here;
                adjoint_tangent[p] += of_output * moved;
                spread(j, c, of_output * tangent[p]);
                if (c_out) weigh(j, c_out, of_output * tangent[p], of_output * value[p]);
                if (!v_c) continue;
                const V by_c = inner(j, v_c, x);
                total += value[p] * by_c;
                adjoint_tangent[p] += of_output * by_c;
                spread(j, v_c, of_output * value[p]);
            }
            put(g_out, tree.outputs, m, total);
        }
        reverse_tangent();
    }
};

constexpr int64_t atoms_of_part = 128;
constexpr int64_t parts_at_most = 8;
constexpr int atoms_at_once = 4;

// Calls work(pass, part) for all atoms and channels. What is summed over atoms is summed by part, of which there
// are as many for any number of threads.
template <class T, class Work>
void for_all(const Tree& tree, int64_t parts, Work work) {
    const int threads = static_cast<int>(tree.threads);
    const int64_t blocks = tree.channels / Simd<T>::lanes, units = parts * blocks;
    in_threads(threads, [&](int t) {
        Pass<T, atoms_at_once> several(tree);
        Pass<T, 1> one(tree);
        for (int64_t u = units * t / threads; u < units * (t + 1) / threads; u++) {
            const int64_t part = u % parts, end = tree.atoms * (part + 1) / parts;
            several.channel = one.channel = u / parts * Simd<T>::lanes;
            for (int64_t i = tree.atoms * part / parts; i < end;) {
                const int64_t* atom = tree.order + i;
                if (i + atoms_at_once <= end && tree.kind[atom[0]] == tree.kind[atom[atoms_at_once - 1]]) {
                    std::copy(atom, atom + atoms_at_once, several.atom);
                    work(several, part);
                    i += atoms_at_once;
                } else {
                    one.atom[0] = atom[0];
                    work(one, part);
                    i++;
                }
            }
        }
    });
}

int64_t parts_of(const Tree& tree) {
    return std::max<int64_t>(1, std::min(parts_at_most, tree.atoms / atoms_of_part));
}

template <class T>
std::vector<std::vector<T>> coefficient_sums(const Tree& tree, int64_t parts, bool wanted) {
    const int64_t size = wanted ? tree.species * tree.terms * tree.channels : 0;
    return std::vector<std::vector<T>>(parts, std::vector<T>(size, T(0)));
}

template <class T>
void forward(const Tree& tree, const T* x, const T* c, T* out) {
    // as many parts as threads: nothing is summed over atoms
    for_all<T>(tree, tree.threads, [&](auto& pass, int64_t) {
        pass.read(pass.x, x);
        pass.values();
        pass.contract(pass.of_species(c), out);
    });
}

template <class T>
void gradient(const Tree& tree, const T* x, const T* c, const T* g, T* x_grad, T* c_grad) {
    const int64_t parts = parts_of(tree);
    auto sums = coefficient_sums<T>(tree, parts, c_grad != nullptr);
    for_all<T>(tree, parts, [&](auto& pass, int64_t part) {
        pass.read(pass.x, x);
        pass.values();
        if (c_grad) {
            T* sum = pass.of_species(sums[part].data());
            pass.for_groups(g, [&](int32_t j, int32_t p, const auto& of) { pass.weigh(j, sum, of * pass.value[p]); });
        }
        if (!x_grad) return;
        pass.reverse(pass.of_species(c), g);
        pass.write(x_grad);
    });
    if (c_grad) add_parts(sums, c_grad, static_cast<int64_t>(sums[0].size()));
}

// The gradient of <v, dE/dx> + <v_c, dE/dc>, g = dE/dF, by x, c and g. v_c and c_out may be null.
template <class T>
void second(const Tree& tree, const T* x, const T* c, const T* g, const T* v, const T* v_c, T* x_out, T* c_out,
            T* g_out) {
    const int64_t parts = parts_of(tree);
    auto sums = coefficient_sums<T>(tree, parts, c_out != nullptr);
    for_all<T>(tree, parts, [&](auto& pass, int64_t part) {
        pass.read(pass.x, x);
        pass.read(pass.v, v);
        pass.values();
        pass.tangents();
        T* sum = c_out ? pass.of_species(sums[part].data()) : nullptr;
        pass.second(pass.of_species(c), pass.of_species(v_c), g, g_out, sum);
        pass.write(x_out);
    });
    if (c_out) add_parts(sums, c_out, static_cast<int64_t>(sums[0].size()));
}

}  // namespace

#define EXPORT(T, suffix)                                                                                         \
    extern "C" void contraction_forward_##suffix(const Tree* tree, const T* x, const T* c, T* out) {              \
        forward<T>(*tree, x, c, out);                                                                             \
    }                                                                                                             \
    extern "C" void contraction_gradient_##suffix(const Tree* tree, const T* x, const T* c, const T* g, T* x_grad, \
                                                  T* c_grad) {                                                    \
        gradient<T>(*tree, x, c, g, x_grad, c_grad);                                                              \
    }                                                                                                             \
    extern "C" void contraction_second_##suffix(const Tree* tree, const T* x, const T* c, const T* g, const T* v, \
                                                const T* v_c, T* x_out, T* c_out, T* g_out) {                     \
        second<T>(*tree, x, c, g, v, v_c, x_out, c_out, g_out);                                                   \
    }

EXPORT(float, float32)
EXPORT(double, float64)
