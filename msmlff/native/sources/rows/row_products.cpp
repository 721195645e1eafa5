// Products of rows, reduced while they are in registers: nothing of size rows x others is stored.
#include "exponential.h"

#include <thread>

namespace {

constexpr int panels_at_once = 4;  // of rows, packed; they stay in the first cache while the others go by
constexpr int others_at_once = 64;  // then sums go from T to double

enum Reduction { least, sum_of_exponentials, most_and_sum_of_exponentials };

// Runs work(begin, end) on parts of [0, count).
template <class Work>
void in_parts(int64_t count, int threads, Work work) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++)
        others.emplace_back([=] { work(count * t / threads, count * (t + 1) / threads); });
    work(0, count / threads);
    for (auto& other : others) other.join();
}

// exp(x) of x that is not large, and 0 where that is next to nothing.
template <class T>
INLINE Vec<T> weight(Vec<T> x) {
    constexpr T least = sizeof(T) == 4 ? T(-87) : T(-708);
    const Vec<T> low = Vec<T>{} + least, e = exponential_within<T>(x < low ? low : x);
    return x < low ? Vec<T>{} : e;
}

template <class T>
struct Panel {
    static constexpr int width = tile_vectors * Simd<T>::lanes;
    T best[width], sum[width];
    double total[width];
};

template <class T, int rows, Reduction how>
INLINE void reduce_tile(const T* others, int64_t depth, const T* columns, Panel<T>& panel) {
    constexpr int lanes = Simd<T>::lanes, width = Panel<T>::width;
    Vec<T> product[rows][tile_vectors] = {};
    for (int64_t k = 0; k < depth; k++) {
        Vec<T> right[tile_vectors];
        for (int v = 0; v < tile_vectors; v++) right[v] = load(columns + k * width + v * lanes);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < tile_vectors; v++) product[r][v] += others[r * depth + k] * right[v];
    }
    for (int v = 0; v < tile_vectors; v++) {
        if constexpr (how != sum_of_exponentials) {
            Vec<T> best = load(panel.best + v * lanes);
            for (int r = 0; r < rows; r++) {
                const Vec<T> p = product[r][v];
                best = how == least ? (p < best ? p : best) : (p > best ? p : best);
            }
            store(panel.best + v * lanes, best);
        }
        if constexpr (how != least) {
            Vec<T> sum = load(panel.sum + v * lanes);
            for (int r = 0; r < rows; r++) sum += weight<T>(product[r][v]);
            store(panel.sum + v * lanes, sum);
        }
    }
}

template <class T, Reduction how, int rows = tile_rows>
void reduce_rest(const T* others, int64_t count, int64_t depth, const T* columns, Panel<T>& panel) {
    if (count == rows) reduce_tile<T, rows, how>(others, depth, columns, panel);
    if constexpr (rows > 1)
        if (count < rows) reduce_rest<T, how, rows - 1>(others, count, depth, columns, panel);
}

// out [runs, n], and most [runs, n] where it is wanted: of the products of each of ``rows`` [n, depth] with the
// others [m, depth], over runs of these that begin at ``starts`` [runs + 1].
template <class T, Reduction how>
void reduce(const T* rows, int64_t n, int64_t depth, const T* others, const int64_t* starts, int64_t runs, T* out,
            T* most, int threads) {
    constexpr int width = Panel<T>::width;
    const int64_t panels = (n + width - 1) / width;
    const int64_t at_once = std::min<int64_t>(panels_at_once, (panels + threads - 1) / threads);
    in_parts((panels + at_once - 1) / at_once, threads, [=](int64_t begin, int64_t end) {
        std::vector<T> packed(at_once * depth * width);
        std::vector<Panel<T>> state(at_once);
        for (int64_t group = begin; group < end; group++) {
            const int64_t first = group * at_once * width;
            const int64_t here = std::min<int64_t>(at_once, panels - group * at_once);
            std::fill(packed.begin(), packed.end(), T(0));
            for (int64_t i = first; i < std::min(n, first + here * width); i++)
                for (int64_t k = 0; k < depth; k++)
                    packed[((i - first) / width * depth + k) * width + (i - first) % width] = rows[i * depth + k];
            for (int64_t run = 0; run < runs; run++) {
                constexpr T none = std::numeric_limits<T>::infinity();
                for (auto& panel : state) {
                    std::fill(panel.best, panel.best + width, how == least ? none : -none);
                    std::fill(panel.sum, panel.sum + width, T(0));
                    std::fill(panel.total, panel.total + width, 0.0);
                }
                for (int64_t o = starts[run]; o < starts[run + 1]; o += others_at_once) {
                    const int64_t stop = std::min(starts[run + 1], o + others_at_once);
                    for (int64_t p = 0; p < here; p++) {
                        const T* columns = packed.data() + p * depth * width;
                        for (int64_t j = o; j < stop; j += tile_rows)
                            reduce_rest<T, how>(
                                others + j * depth, std::min<int64_t>(tile_rows, stop - j), depth, columns, state[p]);
                        for (int i = 0; how != least && i < width; i++) {
                            state[p].total[i] += state[p].sum[i];
                            state[p].sum[i] = 0;
                        }
                    }
                }
                for (int64_t i = first; i < std::min(n, first + here * width); i++) {
                    const Panel<T>& panel = state[(i - first) / width];
                    const int64_t lane = (i - first) % width;
                    out[run * n + i] = how == least ? panel.best[lane] : static_cast<T>(panel.total[lane]);
                    if (how == most_and_sum_of_exponentials) most[run * n + i] = panel.best[lane];
                }
            }
        }
    });
}

// The products of rows with the others of one panel, from lane ``from`` to lane ``to``, summed as exponentials or the
// least of them.
template <class T, Reduction how, int rows, bool part>
INLINE void meet_panel(const T* const (&left)[rows], int64_t depth, const T* panel, const int64_t (&from)[rows],
                       const int64_t (&to)[rows], Vec<T> (&found)[rows]) {
    constexpr int lanes = Simd<T>::lanes, width = tile_vectors * lanes;
    constexpr T none = how == least ? std::numeric_limits<T>::infinity() : T(0);
    Vec<T> product[rows][tile_vectors] = {};
    for (int64_t k = 0; k < depth; k++) {
        Vec<T> right[tile_vectors];
        for (int v = 0; v < tile_vectors; v++) right[v] = load(panel + k * width + v * lanes);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < tile_vectors; v++) product[r][v] += left[r][k] * right[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < tile_vectors; v++) {
            Vec<T> x = product[r][v];
            if constexpr (how != least) x = weight<T>(x);
            if constexpr (part) {
                T each[lanes];
                store(each, x);
                for (int i = 0; i < lanes; i++)
                    if (v * lanes + i < from[r] || v * lanes + i >= to[r]) each[i] = none;
                x = load(each);
            }
            if constexpr (how == least)
                found[r] = x < found[r] ? x : found[r];
            else
                found[r] += x;
        }
}

// Others in columns, padded, and which of them each row has met: from number done[i] to until[i].
template <class T>
struct Growing {
    const T *rows, *panels;
    int64_t depth;
    const int64_t* until;
    double* found;
    int64_t* done;
};

// Rows open[0] to open[here - 1], here <= rows, meet the others before number ``last``.
template <class T, Reduction how, int rows>
void meet_block(const Growing<T>& all, const int64_t* open, int here, int64_t last) {
    constexpr int lanes = Simd<T>::lanes, width = tile_vectors * lanes;
    const T* left[rows];
    Vec<T> found[rows];
    int64_t from[rows], to[rows];
    for (int r = 0; r < rows; r++) {
        const int64_t i = open[std::min(r, here - 1)];
        left[r] = all.rows + i * all.depth;
        found[r] = Vec<T>{} + (how == least ? std::numeric_limits<T>::infinity() : T(0));
        from[r] = all.done[i];
        to[r] = std::min(last, all.until[i]);
    }
    const int64_t start = *std::min_element(from, from + rows) / width * width;
    const int64_t stop = *std::max_element(to, to + rows);
    const int64_t whole_from = *std::max_element(from, from + rows);
    const int64_t whole_to = *std::min_element(to, to + rows);
    for (int64_t p = start; p < stop; p += width) {
        const T* panel = all.panels + p * all.depth;
        if (p >= whole_from && p + width <= whole_to) {
            meet_panel<T, how, rows, false>(left, all.depth, panel, from, to, found);
            continue;
        }
        int64_t low[rows], high[rows];
        for (int r = 0; r < rows; r++) {
            low[r] = from[r] - p;
            high[r] = to[r] - p;
        }
        meet_panel<T, how, rows, true>(left, all.depth, panel, low, high, found);
    }
    for (int r = 0; r < here; r++) {
        double& result = all.found[open[r]];
        if constexpr (how == least) {
            T each[lanes];
            store(each, found[r]);
            result = std::min<double>(result, *std::min_element(each, each + lanes));
        } else {
            result += sum<T>(found[r]);
        }
        all.done[open[r]] = to[r];
    }
}

constexpr int panels_in_block = 8;

// Rows ``begin`` to ``end`` meet the others, block by block until found[i] exceeds enough[i], or is as little (least);
// done[i] becomes how far that came.
template <class T, Reduction how>
void meet_until(const Growing<T>& all, const double* enough, int64_t begin, int64_t end) {
    constexpr int64_t block = panels_in_block * tile_vectors * Simd<T>::lanes;
    int64_t first = INT64_MAX, total = 0;
    for (int64_t i = begin; i < end; i++) {
        first = std::min(first, all.done[i] / block * block);
        total = std::max(total, all.until[i]);
    }
    std::vector<int64_t> open;
    for (; first < total; first += block) {
        const int64_t last = first + block;
        open.clear();
        for (int64_t i = begin; i < end; i++) {
            const bool ended = how == least ? all.found[i] <= enough[i] : all.found[i] > enough[i];
            if (all.done[i] >= first && all.done[i] < std::min(last, all.until[i]) && !ended) open.push_back(i);
        }
        for (size_t at = 0; at < open.size(); at += tile_rows) {
            const int here = static_cast<int>(std::min<size_t>(tile_rows, open.size() - at));
            if (2 * here > tile_rows)
                meet_block<T, how, tile_rows>(all, &open[at], here, last);
            else
                meet_block<T, how, tile_rows / 2>(all, &open[at], here, last);
        }
    }
}

}  // namespace

extern "C" {

#define REDUCTIONS(T, name)                                                                                     \
    void least_##name(const T* rows, int64_t n, int64_t depth, const T* others, const int64_t* starts,          \
                      int64_t runs, T* out, int threads) {                                                      \
        reduce<T, least>(rows, n, depth, others, starts, runs, out, nullptr, threads);                          \
    }                                                                                                           \
    void exponentials_##name(const T* rows, int64_t n, int64_t depth, const T* others, const int64_t* starts,   \
                             int64_t runs, T* out, T* most, int threads) {                                      \
        if (most)                                                                                               \
            reduce<T, most_and_sum_of_exponentials>(rows, n, depth, others, starts, runs, out, most, threads);  \
        else                                                                                                    \
            reduce<T, sum_of_exponentials>(rows, n, depth, others, starts, runs, out, most, threads);           \
    }                                                                                                           \
    void exponentials_within_##name(const T* rows, const T* others, int64_t depth, const int64_t* starts,       \
                                    int64_t runs, T* out, int threads) {                                        \
        in_parts(runs, threads, [=](int64_t begin, int64_t end) {                                               \
            for (int64_t run = begin; run < end; run++) {                                                       \
                const int64_t at = starts[run], ends[2] = {0, starts[run + 1] - at};                            \
                reduce<T, sum_of_exponentials>(                                                                 \
                    rows + at * depth, ends[1], depth, others + at * depth, ends, 1, out + at, nullptr, 1);     \
            }                                                                                                   \
        });                                                                                                     \
    }                                                                                                           \
    int64_t panel_width_##name() { return tile_vectors * Simd<T>::lanes; }                                      \
    void sums_until_##name(const T* rows, int64_t n, int64_t depth, const T* panels, const int64_t* until,      \
                           const double* enough, double* found, int64_t* done, int threads) {                   \
        const Growing<T> all{rows, panels, depth, until, found, done};                                          \
        in_parts(n, threads, [=](int64_t begin, int64_t end) {                                                  \
            meet_until<T, sum_of_exponentials>(all, enough, begin, end);                                        \
        });                                                                                                     \
    }                                                                                                           \
    void least_until_##name(const T* rows, int64_t n, int64_t depth, const T* panels, const int64_t* until,     \
                            const double* enough, double* found, int64_t* done, int threads) {                  \
        const Growing<T> all{rows, panels, depth, until, found, done};                                          \
        in_parts(n, threads, [=](int64_t begin, int64_t end) { meet_until<T, least>(all, enough, begin, end); });\
    }

REDUCTIONS(float, float32)
REDUCTIONS(double, float64)
}
