// Separable convolutions that leave one feature map of a cell, and their weighted sums, forwards and backwards.
//
// A chain is one or more blocks of ReLU, depthwise convolution, 1x1 convolution and batch norm without parameters.
// All chains read x. Each edge gets the weighted sum of its chains and of features that are given:
//
//     out[e] = sum_{chain j of e} mix[j] * chain_j(x) + sum_f mix[chains + e F + f] * feature_f
//
// Tensors are NHWC. Inside, channels are padded with zeros to whole vectors: P instead of C of them. Vectors are the
// compiler's (GCC and Clang), so one source serves AVX2, AVX-512 and NEON.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE 12  // rows of a matrix product at a time: as many as fit into the registers
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define TILE 6
#else
#define VECTOR_BYTES 16
#define TILE 8
#endif
#define PARTIAL 64  // pixels summed before they join a total: sums of few numbers are rounded less

// What Python hands over; `_Call` in operators.py has the same fields in the same order.
struct Call {
    int64_t N, H, W, C, out_H, out_W;
    int64_t edges, chains, features, threads;
    int64_t batch_statistics;    // normalise with those of the batch, not with the running ones
    int64_t mix_columns;         // 1, or N: a weight for each sample
    const int32_t* chain_edge;   // (chains,), increasing
    const int32_t* chain_silent; // (chains,): 1 if only the gradient of its weight is wanted
    const int32_t* chain_start;  // (chains + 1,): the first block of each
    const int32_t* shapes;       // (blocks, 3): kernel, dilation, stride
    const double* eps;           // (blocks,)
    const void* const* depthwise;      // (blocks,) of (C, k, k)
    const void* const* pointwise;      // (blocks,) of (C out, C in)
    const void* const* running_mean;   // (blocks,) of (C,)
    const void* const* running_var;
    const void* x;
    const void* const* given;    // (features,) like an output
    const void* mix;             // (chains + edges * features, mix_columns)
    void* normalised;            // (blocks, N, out_H, out_W, P): inputs of the batch norms
    void* statistics;            // (blocks, 3, P): mean, 1 / sqrt(var + eps), var
    void* const* out;            // (edges,)
    // Backwards only; a null pointer is a gradient nobody asked for.
    const void* const* grad_out;
    void* grad_x;
    void* const* grad_given;
    void* grad_mix;
    void* const* grad_depthwise;
    void* const* grad_pointwise;
};

template <class T> struct Lanes {
    typedef T type __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
    static const int count = VECTOR_BYTES / sizeof(T);
};
template <class T> using V = typename Lanes<T>::type;

template <class T> static inline V<T> load(const T* p) { return *(const V<T>*)p; }
template <class T> static inline void store(T* p, V<T> v) { *(V<T>*)p = v; }
template <class T> static inline V<T> zero() { return V<T>{}; }

template <class T> static inline V<T> relu(V<T> v) { return v < zero<T>() ? zero<T>() : v; }  // NaN stays

// Memory at the beginning of a cache line: a vector that crosses two of them takes twice the time.
template <class T> struct Aligned {
    typedef T value_type;
    Aligned() = default;
    template <class U> Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    friend bool operator==(const Aligned&, const Aligned&) { return true; }
    friend bool operator!=(const Aligned&, const Aligned&) { return false; }
};

// A scratch array of zeros.
template <class T> using Array = std::vector<T, Aligned<T>>;

template <class T> static int64_t padded(int64_t channels) {
    const int lanes = Lanes<T>::count;
    return (channels + lanes - 1) / lanes * lanes;
}

// Feature maps of one image with a margin of zeros around: (H + 2 margin, W + 2 margin, P).
struct Framed {
    int64_t H, W, P, margin;
    int64_t row() const { return (W + 2 * margin) * P; }
    int64_t size() const { return (H + 2 * margin) * row(); }
    int64_t at(int64_t y, int64_t x) const { return (y + margin) * row() + (x + margin) * P; }
};

struct Shape {
    int kernel, dilation, stride;
    int margin() const { return dilation * (kernel / 2); }
    int taps() const { return kernel * kernel; }
};

// -- depthwise convolution ------------------------------------------------------------------------------------

// Neighbouring outputs at a time: their sums, and a row of the kernel, fit into 16 registers.
template <int K> static const int COLUMNS = K == 7 ? 6 : 8;

// COUNT neighbouring outputs of a kernel without stride: every pixel is loaded once for all columns of the kernel.
template <class T, int K, int DILATION, int COUNT, bool ADD>
static inline void depthwise_outputs(const T* x, int64_t row, int64_t P, const T* w, T* y) {
    V<T> sum[COUNT];
#pragma GCC unroll 8
    for (int t = 0; t < COUNT; t++) sum[t] = ADD ? load(y + t * P) : zero<T>();
    for (int ky = 0; ky < K; ky++) {
        V<T> weight[K];
#pragma GCC unroll 8
        for (int kx = 0; kx < K; kx++) weight[kx] = load(w + (ky * K + kx) * P);
        const T* from = x + ky * DILATION * row;
#pragma GCC unroll 24
        for (int i = 0; i < COUNT + (K - 1) * DILATION; i++) {
            const V<T> value = load(from + i * P);
#pragma GCC unroll 8
            for (int kx = 0; kx < K; kx++) {
                const int t = i - kx * DILATION;
                if (t >= 0 && t < COUNT) sum[t] += weight[kx] * value;
            }
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < COUNT; t++) store(y + t * P, sum[t]);
}

// The same for any kernel.
template <class T, int COUNT, bool ADD>
static inline void depthwise_outputs(const T* x, int64_t row, int64_t P, Shape s, const T* w, T* y) {
    V<T> sum[COUNT];
    for (int t = 0; t < COUNT; t++) sum[t] = ADD ? load(y + t * P) : zero<T>();
    const int64_t step = s.stride * P;
    for (int ky = 0; ky < s.kernel; ky++)
        for (int kx = 0; kx < s.kernel; kx++) {
            const V<T> weight = load(w + (ky * s.kernel + kx) * P);
            const T* from = x + ky * s.dilation * row + kx * s.dilation * P;
#pragma GCC unroll 8
            for (int t = 0; t < COUNT; t++) sum[t] += weight * load(from + t * step);
        }
    for (int t = 0; t < COUNT; t++) store(y + t * P, sum[t]);
}

// y[i] (+)= sum_k w[k] x[i * stride + k * dilation - margin]; x is framed, w is (taps, P). K is 0 for any kernel.
template <class T, int K, int DILATION, bool ADD>
static void depthwise_rows(const T* x, const Framed& f, Shape s, const T* w, T* y, int64_t out_H, int64_t out_W) {
    const int64_t P = f.P, row = f.row();
    const T* corner = x + f.at(-s.margin(), -s.margin());
    for (int64_t c = 0; c < P; c += Lanes<T>::count)
        for (int64_t oy = 0; oy < out_H; oy++) {
            const T* from = corner + oy * s.stride * row + c;
            T* to = y + oy * out_W * P + c;
            int64_t ox = 0;
            if constexpr (K > 0) {
                for (; ox + COLUMNS<K> <= out_W; ox += COLUMNS<K>)
                    depthwise_outputs<T, K, DILATION, COLUMNS<K>, ADD>(from + ox * P, row, P, w + c, to + ox * P);
                for (; ox < out_W; ox++) depthwise_outputs<T, K, DILATION, 1, ADD>(from + ox * P, row, P, w + c, to + ox * P);
            } else {
                for (; ox + 4 <= out_W; ox += 4)
                    depthwise_outputs<T, 4, ADD>(from + ox * s.stride * P, row, P, s, w + c, to + ox * P);
                for (; ox < out_W; ox++)
                    depthwise_outputs<T, 1, ADD>(from + ox * s.stride * P, row, P, s, w + c, to + ox * P);
            }
        }
}

// Call work(kernel, dilation) with constants for the shapes that have code of their own, else with zeros.
template <class Work> static void by_shape(Shape s, Work work) {
    typedef std::integral_constant<int, 0> Any;
    typedef std::integral_constant<int, 1> One;
    typedef std::integral_constant<int, 2> Two;
    typedef std::integral_constant<int, 3> Three;
    typedef std::integral_constant<int, 5> Five;
    typedef std::integral_constant<int, 7> Seven;
    if (s.stride > 1) work(Any(), Any());
    else if (s.kernel == 3 && s.dilation == 1) work(Three(), One());
    else if (s.kernel == 5 && s.dilation == 1) work(Five(), One());
    else if (s.kernel == 7 && s.dilation == 1) work(Seven(), One());
    else if (s.kernel == 3 && s.dilation == 2) work(Three(), Two());
    else if (s.kernel == 5 && s.dilation == 2) work(Five(), Two());
    else work(Any(), Any());
}

template <class T, bool ADD>
static void depthwise(const T* x, const Framed& f, Shape s, const T* w, T* y, int64_t out_H, int64_t out_W) {
    by_shape(s, [&](auto kernel, auto dilation) {
        depthwise_rows<T, decltype(kernel)::value, decltype(dilation)::value, ADD>(x, f, s, w, y, out_H, out_W);
    });
}

// Gradient of x for strides above 1: every output adds to what it read. grad_x is framed.
template <class T>
static void depthwise_scatter(T* grad_x, const Framed& f, Shape s, const T* w, const T* grad, int64_t out_H, int64_t out_W) {
    const int64_t P = f.P, row = f.row();
    T* corner = grad_x + f.at(-s.margin(), -s.margin());
    for (int64_t oy = 0; oy < out_H; oy++)
        for (int ky = 0; ky < s.kernel; ky++)
            for (int64_t ox = 0; ox < out_W; ox++) {
                T* to = corner + (oy * s.stride + ky * s.dilation) * row + ox * s.stride * P;
                const T* g = grad + (oy * out_W + ox) * P;
                for (int kx = 0; kx < s.kernel; kx++)
                    for (int64_t c = 0; c < P; c += Lanes<T>::count) {
                        T* q = to + kx * s.dilation * P + c;
                        store(q, load(q) + load(w + (ky * s.kernel + kx) * P + c) * load(g + c));
                    }
            }
}

// COUNT neighbouring outputs add to the gradients of ROWS rows of the kernel.
template <class T, int K, int DILATION, int ROWS, int COUNT>
static inline void depthwise_weight_sums(const T* x, int64_t row, int64_t P, const T* grad, V<T>* sum) {
    V<T> g[COUNT];
#pragma GCC unroll 8
    for (int t = 0; t < COUNT; t++) g[t] = load(grad + t * P);
#pragma GCC unroll 4
    for (int ky = 0; ky < ROWS; ky++)
#pragma GCC unroll 24
        for (int i = 0; i < COUNT + (K - 1) * DILATION; i++) {
            const V<T> value = load(x + ky * DILATION * row + i * P);
#pragma GCC unroll 8
            for (int kx = 0; kx < K; kx++) {
                const int t = i - kx * DILATION;
                if (t >= 0 && t < COUNT) sum[ky * K + kx] += g[t] * value;
            }
        }
}

// Gradients of ROWS rows of a kernel without stride, added to grad_w, (ROWS K, P). As many rows as registers hold.
template <class T, int K, int DILATION, int ROWS>
static void depthwise_weight_rows(const T* x, int64_t row, int64_t P, const T* grad, T* grad_w, int64_t out_H, int64_t out_W) {
    const int64_t rows = std::max<int64_t>(1, PARTIAL / out_W);
    for (int64_t c = 0; c < P; c += Lanes<T>::count)
        for (int64_t first = 0; first < out_H; first += rows) {
            V<T> sum[ROWS * K];
#pragma GCC unroll 16
            for (int k = 0; k < ROWS * K; k++) sum[k] = zero<T>();
            for (int64_t oy = first; oy < std::min(first + rows, out_H); oy++) {
                const T *from = x + oy * row + c, *g = grad + oy * out_W * P + c;
                int64_t ox = 0;
                for (; ox + 4 <= out_W; ox += 4)
                    depthwise_weight_sums<T, K, DILATION, ROWS, 4>(from + ox * P, row, P, g + ox * P, sum);
                for (; ox < out_W; ox++)
                    depthwise_weight_sums<T, K, DILATION, ROWS, 1>(from + ox * P, row, P, g + ox * P, sum);
            }
#pragma GCC unroll 16
            for (int k = 0; k < ROWS * K; k++) store(grad_w + k * P + c, load(grad_w + k * P + c) + sum[k]);
        }
}

// The gradient of one weight of any kernel, added to grad_w, (P,).
template <class T>
static void depthwise_one_weight(const T* x, int64_t row, int64_t P, int64_t stride, const T* grad, T* grad_w, int64_t out_H, int64_t out_W) {
    const int64_t rows = std::max<int64_t>(1, PARTIAL / out_W);
    for (int64_t c = 0; c < P; c += Lanes<T>::count)
        for (int64_t first = 0; first < out_H; first += rows) {
            V<T> sum = zero<T>();
            for (int64_t oy = first; oy < std::min(first + rows, out_H); oy++)
                for (int64_t ox = 0; ox < out_W; ox++)
                    sum += load(grad + (oy * out_W + ox) * P + c) * load(x + oy * stride * row + ox * stride * P + c);
            store(grad_w + c, load(grad_w + c) + sum);
        }
}

// Gradients of all weights, added to grad_w, (taps, P); x is framed.
template <class T>
static void depthwise_weights(const T* x, const Framed& f, Shape s, const T* grad, T* grad_w, int64_t out_H, int64_t out_W) {
    const int64_t P = f.P, row = f.row();
    const T* corner = x + f.at(-s.margin(), -s.margin());
    by_shape(s, [&](auto kernel, auto dilation) {
        constexpr int K = decltype(kernel)::value, DILATION = decltype(dilation)::value;
        if constexpr (K > 0) {
            constexpr int ROWS = K == 3 ? 3 : K == 5 ? 2 : 1;
            int ky = 0;
            for (; ky + ROWS <= K; ky += ROWS)
                depthwise_weight_rows<T, K, DILATION, ROWS>(corner + ky * DILATION * row, row, P, grad, grad_w + ky * K * P, out_H, out_W);
            for (; ky < K; ky++)
                depthwise_weight_rows<T, K, DILATION, 1>(corner + ky * DILATION * row, row, P, grad, grad_w + ky * K * P, out_H, out_W);
        } else {
            for (int k = 0; k < s.taps(); k++) {
                const T* from = corner + k / s.kernel * s.dilation * row + k % s.kernel * s.dilation * P;
                depthwise_one_weight(from, row, P, s.stride, grad, grad_w + k * P, out_H, out_W);
            }
        }
    });
}

// -- products of matrices -------------------------------------------------------------------------------------

template <class T, int ROWS, int VECTORS>
static inline void product_tile(const T* a, const T* b, T* y, int64_t P) {
    V<T> sum[ROWS][VECTORS];
    for (int t = 0; t < ROWS; t++) for (int j = 0; j < VECTORS; j++) sum[t][j] = zero<T>();
    for (int64_t k = 0; k < P; k++) {
        V<T> right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load(b + k * P + j * Lanes<T>::count);
#pragma GCC unroll 12
        for (int t = 0; t < ROWS; t++)
            for (int j = 0; j < VECTORS; j++) sum[t][j] += right[j] * a[t * P + k];
    }
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) store(y + t * P + j * Lanes<T>::count, sum[t][j]);
}

template <class T, int VECTORS>
static void product_columns(const T* a, int64_t M, const T* b, T* y, int64_t P) {
    int64_t m = 0;
    for (; m + TILE <= M; m += TILE) product_tile<T, TILE, VECTORS>(a + m * P, b, y + m * P, P);
    for (; m + 4 <= M; m += 4) product_tile<T, 4, VECTORS>(a + m * P, b, y + m * P, P);
    for (; m < M; m++) product_tile<T, 1, VECTORS>(a + m * P, b, y + m * P, P);
}

// y = a b; a, y (M, P), b (P, P).
template <class T> static void product(const T* a, int64_t M, const T* b, T* y, int64_t P) {
    const int L = Lanes<T>::count;
    int64_t c = 0;
    for (; c + 2 * L <= P; c += 2 * L) product_columns<T, 2>(a, M, b + c, y + c, P);
    if (c < P) product_columns<T, 1>(a, M, b + c, y + c, P);
}

template <class T, int ROWS, int VECTORS>
static inline void product_transposed_tile(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    V<T> sum[ROWS][VECTORS];
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) sum[t][j] = zero<T>();
    for (int64_t m = 0; m < M; m++) {
        V<T> right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load(g + m * P + j * Lanes<T>::count);
#pragma GCC unroll 12
        for (int t = 0; t < ROWS; t++)
            for (int j = 0; j < VECTORS; j++) sum[t][j] += right[j] * a[m * P + t];
    }
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) {
            T* to = w + t * P + j * Lanes<T>::count;
            store(to, load(to) + sum[t][j]);
        }
}

template <class T, int VECTORS>
static void product_transposed_columns(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    int64_t i = 0;
    for (; i + TILE <= P; i += TILE) product_transposed_tile<T, TILE, VECTORS>(a + i, g, M, w + i * P, P);
    for (; i + 4 <= P; i += 4) product_transposed_tile<T, 4, VECTORS>(a + i, g, M, w + i * P, P);
    for (; i + 2 <= P; i += 2) product_transposed_tile<T, 2, VECTORS>(a + i, g, M, w + i * P, P);
}

// w += a^T g; a, g (M, P), w (P, P).
template <class T> static void product_transposed(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    const int L = Lanes<T>::count;
    for (int64_t m = 0; m < M; m += PARTIAL) {
        const int64_t rows = std::min<int64_t>(PARTIAL, M - m);
        int64_t c = 0;
        for (; c + 2 * L <= P; c += 2 * L) product_transposed_columns<T, 2>(a + m * P, g + m * P + c, rows, w + c, P);
        if (c < P) product_transposed_columns<T, 1>(a + m * P, g + m * P + c, rows, w + c, P);
    }
}

// -- one chain ------------------------------------------------------------------------------------------------

// Copy an image (H, W, C) into a frame, with ReLU.
template <class T> static void frame_relu(const T* x, int64_t C, const Framed& f, T* to) {
    for (int64_t y = 0; y < f.H; y++)
        for (int64_t i = 0; i < f.W; i++) {
            const T* from = x + (y * f.W + i) * C;
            T* q = to + f.at(y, i);
            if (C == f.P) for (int64_t c = 0; c < C; c += Lanes<T>::count) store(q + c, relu<T>(load(from + c)));
            else for (int64_t c = 0; c < C; c++) q[c] = from[c] < 0 ? 0 : from[c];
        }
}

// Copy an image (H, W, P) into a frame, normalised and with ReLU.
template <class T> static void frame_normalised(const T* x, const T* statistics, const Framed& f, T* to) {
    const T *mean = statistics, *inverse = statistics + f.P;
    for (int64_t y = 0; y < f.H; y++)
        for (int64_t i = 0; i < f.W; i++)
            for (int64_t c = 0; c < f.P; c += Lanes<T>::count) {
                const V<T> value = (load(x + (y * f.W + i) * f.P + c) - load(mean + c)) * load(inverse + c);
                store(to + f.at(y, i) + c, relu<T>(value));
            }
}

template <class T> static void frame(const T* x, const Framed& f, T* to) {
    for (int64_t y = 0; y < f.H; y++) std::memcpy(to + f.at(y, 0), x + y * f.W * f.P, f.W * f.P * sizeof(T));
}

// The weights of a block, channels padded and last.
template <class T> struct Packed {
    Shape shape;
    Array<T> depthwise;  // (taps, P)
    Array<T> flipped;    // the same from the last tap to the first: the kernel of the gradient
    Array<T> forward;    // (in, out)
    Array<T> backward;   // (out, in)
    Packed(const Call& call, int64_t block, int64_t P) {
        const int32_t* s = call.shapes + 3 * block;
        shape = Shape{s[0], s[1], s[2]};
        const T *d = (const T*)call.depthwise[block], *p = (const T*)call.pointwise[block];
        const int taps = shape.taps();
        depthwise.resize(taps * P), flipped.resize(taps * P), forward.resize(P * P), backward.resize(P * P);
        for (int64_t c = 0; c < call.C; c++)
            for (int k = 0; k < taps; k++) depthwise[k * P + c] = flipped[(taps - 1 - k) * P + c] = d[c * taps + k];
        for (int64_t o = 0; o < call.C; o++)
            for (int64_t i = 0; i < call.C; i++) backward[o * P + i] = forward[i * P + o] = p[o * call.C + i];
    }
};

// Sizes that all functions below share.
template <class T> struct Sizes {
    int64_t P, pixels, image, block;  // pixels of an output image, its numbers, those of a whole batch
    Framed outside, inside;           // frames of x, and of a feature map between two blocks
    Sizes(const Call& call) {
        P = padded<T>(call.C), pixels = call.out_H * call.out_W, image = pixels * P, block = call.N * image;
        int64_t first = 0, later = 0;
        for (int64_t j = 0; j < call.chains; j++)
            for (int64_t b = call.chain_start[j]; b < call.chain_start[j + 1]; b++) {
                const int64_t margin = call.shapes[3 * b + 1] * (call.shapes[3 * b] / 2);
                int64_t& widest = b == call.chain_start[j] ? first : later;
                widest = std::max(widest, margin);
            }
        outside = Framed{call.H, call.W, P, first};
        inside = Framed{call.out_H, call.out_W, P, std::max(first, later)};
    }
};

// Add a vector to totals of double precision.
template <class T> static inline void add_to(double* totals, V<T> v) {
    for (int l = 0; l < Lanes<T>::count; l++) totals[l] += v[l];
}

// Call work(m, u) for m from first to last, u = 0, 1, 2, 3, 0, ...: sums that do not wait for each other.
template <class Work> static inline void in_fours(int64_t first, int64_t last, Work work) {
    int64_t m = first;
    for (; m + 4 <= last; m += 4) work(m, 0), work(m + 1, 1), work(m + 2, 2), work(m + 3, 3);
    for (int u = 0; m < last; m++, u++) work(m, u);
}

// Mean of every channel of one image, and the sum of squares around it; (2, P).
template <class T> static void image_moments(const T* y, const Sizes<T>& sizes, double* moments) {
    const int64_t P = sizes.P, M = sizes.pixels;
    Array<T> mean(P);
    std::fill(moments, moments + 2 * P, 0.0);
    for (int pass = 0; pass < 2; pass++) {
        double* totals = moments + pass * P;
        for (int64_t first = 0; first < M; first += PARTIAL)
            for (int64_t c = 0; c < P; c += Lanes<T>::count) {
                const V<T> centre = load(&mean[c]);
                V<T> part[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
                in_fours(first, std::min<int64_t>(first + PARTIAL, M), [&](int64_t m, int u) {
                    const V<T> value = load(y + m * P + c) - centre;
                    part[u] += pass ? value * value : value;
                });
                add_to<T>(totals + c, (part[0] + part[1]) + (part[2] + part[3]));
            }
        if (!pass) for (int64_t c = 0; c < P; c++) mean[c] = (T)(totals[c] /= M);
    }
}

// Mean, 1 / sqrt(var + eps) and variance of every channel, from the moments of all images; var without correction.
template <class T> static void batch_statistics(const Call& call, const Sizes<T>& sizes, int64_t block, const double* moments, T* statistics) {
    const int64_t P = sizes.P;
    for (int64_t c = 0; c < P; c++) {
        double mean = 0, squares = 0;
        for (int64_t n = 0; n < call.N; n++) mean += moments[n * 2 * P + c];
        mean /= call.N;
        for (int64_t n = 0; n < call.N; n++) {
            const double apart = moments[n * 2 * P + c] - mean;
            squares += moments[n * 2 * P + P + c] + sizes.pixels * apart * apart;
        }
        const double variance = squares / ((double)call.N * sizes.pixels);
        statistics[c] = (T)mean;
        statistics[P + c] = (T)(1 / std::sqrt(variance + call.eps[block]));
        statistics[2 * P + c] = (T)variance;
    }
}

template <class T> static void running_statistics(const Call& call, const Sizes<T>& sizes, int64_t block, T* statistics) {
    const T *mean = (const T*)call.running_mean[block], *var = (const T*)call.running_var[block];
    std::fill(statistics, statistics + 3 * sizes.P, (T)0);  // also of the padding, whose numbers must not be NaN
    for (int64_t c = 0; c < call.C; c++) {
        statistics[c] = mean[c];
        statistics[sizes.P + c] = (T)(1 / std::sqrt((double)var[c] + call.eps[block]));
        statistics[2 * sizes.P + c] = var[c];
    }
}

// The chains of one thread. Of each image all chains run one block, so that what they share stays in the cache.
template <class T>
static void run_chains(const Call& call, const Sizes<T>& sizes, const T* framed_x, const std::vector<int64_t>& chains) {
    struct Running {
        int64_t block;
        Packed<T> weights;
        Array<double> moments;
    };
    const int64_t P = sizes.P;
    Array<T> between(sizes.inside.size()), convolved(sizes.image);
    for (int64_t depth = 0;; depth++) {
        std::vector<Running> level;
        for (int64_t j : chains) {
            const int64_t b = call.chain_start[j] + depth;
            if (b < call.chain_start[j + 1])
                level.push_back(Running{b, Packed<T>(call, b, P), Array<double>(call.N * 2 * P)});
        }
        if (level.empty()) return;
        for (int64_t n = 0; n < call.N; n++)
            for (Running& chain : level) {
                T* y = (T*)call.normalised + chain.block * sizes.block + n * sizes.image;
                const T* read = framed_x + n * sizes.outside.size();
                if (depth > 0) {
                    const T* statistics = (const T*)call.statistics + (chain.block - 1) * 3 * P;
                    frame_normalised(y - sizes.block, statistics, sizes.inside, between.data());
                    read = between.data();
                }
                depthwise<T, false>(read, depth > 0 ? sizes.inside : sizes.outside, chain.weights.shape,
                                    chain.weights.depthwise.data(), convolved.data(), call.out_H, call.out_W);
                product(convolved.data(), sizes.pixels, chain.weights.forward.data(), y, P);
                if (call.batch_statistics) image_moments(y, sizes, &chain.moments[n * 2 * P]);
            }
        for (Running& chain : level) {
            T* statistics = (T*)call.statistics + chain.block * 3 * P;
            if (call.batch_statistics) batch_statistics(call, sizes, chain.block, chain.moments.data(), statistics);
            else running_statistics(call, sizes, chain.block, statistics);
        }
    }
}

template <class T> static T mix_of(const Call& call, int64_t term, int64_t n) {
    return ((const T*)call.mix)[call.mix_columns == 1 ? term : term * call.mix_columns + n];
}

// -- weighted sums --------------------------------------------------------------------------------------------

// out[e], image n: every chain is read once, with its batch norm and its weight as one factor and one shift.
template <class T> static void weighted_sum(const Call& call, const Sizes<T>& sizes, int64_t edge, int64_t n) {
    const int64_t P = sizes.P, C = call.C;
    std::vector<const T*> read;
    Array<T> factors, shift(P), wide(P == C ? 0 : sizes.image);
    for (int64_t j = 0; j < call.chains; j++)
        if (call.chain_edge[j] == edge) {
            const int64_t b = call.chain_start[j + 1] - 1;
            const T* statistics = (const T*)call.statistics + b * 3 * P;
            read.push_back((const T*)call.normalised + b * sizes.block + n * sizes.image);
            for (int64_t c = 0; c < P; c++) {
                factors.push_back(mix_of<T>(call, j, n) * statistics[P + c]);
                shift[c] -= factors.back() * statistics[c];
            }
        }
    T* out = (T*)call.out[edge] + n * sizes.pixels * C;
    T* to = P == C ? out : wide.data();
    for (int64_t m = 0; m < sizes.pixels; m++)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            V<T> sum = load(&shift[c]);
            for (std::size_t j = 0; j < read.size(); j++) sum += load(&factors[j * P + c]) * load(read[j] + m * P + c);
            store(to + m * P + c, sum);
        }
    if (P != C) for (int64_t m = 0; m < sizes.pixels; m++) std::memcpy(out + m * C, &wide[m * P], C * sizeof(T));
    const int64_t count = sizes.pixels * C;
    for (int64_t f = 0; f < call.features; f++) {
        const T weight = mix_of<T>(call, call.chains + edge * call.features + f, n);
        const T* feature = (const T*)call.given[f] + n * count;
        for (int64_t i = 0; i < count; i++) out[i] += weight * feature[i];
    }
}

// Gradients of the given features, and of their weights.
template <class T> static void weighted_sum_backward(const Call& call, const Sizes<T>& sizes, int64_t n) {
    const int64_t count = sizes.pixels * call.C;
    for (int64_t f = 0; f < call.features; f++) {
        const T* feature = (const T*)call.given[f] + n * count;
        T* to = call.grad_given ? (T*)call.grad_given[f] + n * count : nullptr;
        for (int64_t e = 0; e < call.edges; e++) {
            const int64_t term = call.chains + e * call.features + f;
            const T weight = mix_of<T>(call, term, n);
            const T* g = (const T*)call.grad_out[e] + n * count;
            if (to && e == 0) for (int64_t i = 0; i < count; i++) to[i] = weight * g[i];
            else if (to) for (int64_t i = 0; i < count; i++) to[i] += weight * g[i];
            if (call.grad_mix) {
                const int L = Lanes<T>::count;
                V<T> part[2] = {zero<T>(), zero<T>()};
                int64_t i = 0;
                for (; i + 2 * L <= count; i += 2 * L)
                    for (int u = 0; u < 2; u++) part[u] += load(g + i + u * L) * load(feature + i + u * L);
                T sum = 0;
                for (; i < count; i++) sum += g[i] * feature[i];
                for (int u = 0; u < 2; u++) for (int l = 0; l < L; l++) sum += part[u][l];
                ((T*)call.grad_mix)[term * call.N + n] = sum;
            }
        }
    }
}

// -- backwards ------------------------------------------------------------------------------------------------

// For each channel of one image: sum of g, and of g times the normalised y; (2, P). With MASKED, g is that of a ReLU of
// y, normalised, and becomes that of y.
template <class T, bool MASKED, class G>
static void gradient_sums(G* g, const T* y, const T* statistics, const Sizes<T>& sizes, double* sums) {
    const int64_t P = sizes.P, M = sizes.pixels;
    std::fill(sums, sums + 2 * P, 0.0);
    for (int64_t first = 0; first < M; first += PARTIAL)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            const V<T> mean = load(statistics + c);
            V<T> plain[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
            V<T> weighted[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
            in_fours(first, std::min<int64_t>(first + PARTIAL, M), [&](int64_t m, int u) {
                const V<T> read = load(y + m * P + c);
                V<T> value = load<T>(g + m * P + c);
                if constexpr (MASKED) store(g + m * P + c, value = read <= mean ? zero<T>() : value);
                plain[u] += value;
                weighted[u] += value * (read - mean);
            });
            add_to<T>(sums + c, (plain[0] + plain[1]) + (plain[2] + plain[3]));
            add_to<T>(sums + P + c, (weighted[0] + weighted[1]) + (weighted[2] + weighted[3]));
        }
    for (int64_t c = 0; c < P; c++) sums[P + c] *= statistics[P + c];
}

// Gradient of a batch norm's input, one image: weight g / s, less what the batch's mean and variance take back.
template <class T>
static void norm_backward(const T* g, const T* y, const T* statistics, T weight, const double* totals, double count,
                          bool of_batch, const Sizes<T>& sizes, T* grad_y) {
    const int64_t P = sizes.P;
    Array<T> slopes(P), offsets(P);
    if (of_batch)
        for (int64_t c = 0; c < P; c++) {
            slopes[c] = (T)(-totals[P + c] / count) * statistics[P + c];
            offsets[c] = (T)(-totals[c] / count);
        }
    for (int64_t first = 0; first < sizes.pixels; first += PARTIAL)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            const V<T> mean = load(statistics + c), inverse = load(statistics + P + c);
            const V<T> slope = load(&slopes[c]), offset = load(&offsets[c]);
            // 1 / s is multiplied last: rounded into the factors one by one, it would leave a sum that is not zero.
            for (int64_t m = first; m < std::min<int64_t>(first + PARTIAL, sizes.pixels); m++) {
                const V<T> apart = load(y + m * P + c) - mean;
                store(grad_y + m * P + c, inverse * (load(g + m * P + c) * weight + (slope * apart + offset)));
            }
        }
}

// Scratch of a thread that goes backwards through chains.
template <class T> struct Backward {
    Array<T> between, framed_grad, convolved, grad_y, grad_d, grads[2], grad_x, wide;
    Array<double> sums;
    Backward(const Call& call, const Sizes<T>& s)
        : between(s.inside.size()), framed_grad(s.inside.size()), convolved(s.image), grad_y(s.image),
          grad_d(s.image), grad_x(call.N * s.outside.size()), wide(s.P == call.C ? 0 : s.block),
          sums(call.N * 2 * s.P) {}
};

// Channels padded, if they must be.
template <class T> static const T* widened(const Call& call, const Sizes<T>& sizes, const T* g, Array<T>& wide) {
    if (sizes.P == call.C) return g;
    for (int64_t m = 0; m < call.N * sizes.pixels; m++)
        std::memcpy(&wide[m * sizes.P], g + m * call.C, call.C * sizeof(T));
    return wide.data();
}

template <class T>
static void chain_backward(const Call& call, const Sizes<T>& sizes, const T* framed_x, int64_t chain, Backward<T>& scratch) {
    const int64_t P = sizes.P, first = call.chain_start[chain], last = call.chain_start[chain + 1] - 1;
    const double count = (double)call.N * sizes.pixels;
    const bool weights_wanted = call.grad_depthwise != nullptr;
    const T* g = widened(call, sizes, (const T*)call.grad_out[call.chain_edge[chain]], scratch.wide);
    for (int64_t b = last; b >= first; b--) {
        const Packed<T> packed(call, b, P);
        const Shape shape = packed.shape;
        const T* y = (const T*)call.normalised + b * sizes.block;
        const T* statistics = (const T*)call.statistics + b * 3 * P;
        const T *earlier = y - sizes.block, *earlier_statistics = statistics - 3 * P;
        Array<T> grad_w(shape.taps() * P), grad_p(P * P);
        Array<double> totals(2 * P);
        Array<T>& passed = scratch.grads[(last - b) % 2];
        if (b > first) passed.resize(sizes.block);
        for (int64_t n = 0; n < call.N; n++) {
            double* sums = &scratch.sums[n * 2 * P];
            if (b == last) gradient_sums<T, false>(g + n * sizes.image, y + n * sizes.image, statistics, sizes, sums);
            const T weight = b == last ? mix_of<T>(call, chain, n) : (T)1;
            for (int64_t c = 0; c < 2 * P; c++) totals[c] += weight * sums[c];
            if (b == last && call.grad_mix) {
                double sum = 0;
                for (int64_t c = 0; c < P; c++) sum += sums[P + c];
                ((T*)call.grad_mix)[chain * call.N + n] = (T)sum;
            }
        }
        if (call.chain_silent[chain]) return;
        for (int64_t n = 0; n < call.N; n++) {
            const T weight = b == last ? mix_of<T>(call, chain, n) : (T)1;
            const int64_t at = n * sizes.image;
            norm_backward(g + at, y + at, statistics, weight, totals.data(), count, call.batch_statistics, sizes,
                          scratch.grad_y.data());
            const T* read = framed_x + n * sizes.outside.size();
            const Framed& f = b == first ? sizes.outside : sizes.inside;
            if (b > first) {
                if (weights_wanted) frame_normalised(earlier + at, earlier_statistics, sizes.inside, scratch.between.data());
                read = scratch.between.data();
            }
            product(scratch.grad_y.data(), sizes.pixels, packed.backward.data(), scratch.grad_d.data(), P);
            if (weights_wanted) {  // the depthwise convolution is computed again: it need not be kept
                depthwise<T, false>(read, f, shape, packed.depthwise.data(), scratch.convolved.data(), call.out_H, call.out_W);
                product_transposed(scratch.convolved.data(), scratch.grad_y.data(), sizes.pixels, grad_p.data(), P);
                depthwise_weights(read, f, shape, scratch.grad_d.data(), grad_w.data(), call.out_H, call.out_W);
            }
            if (shape.stride > 1) {
                depthwise_scatter(&scratch.grad_x[n * sizes.outside.size()], sizes.outside, shape,
                                  packed.depthwise.data(), scratch.grad_d.data(), call.out_H, call.out_W);
                continue;
            }
            frame(scratch.grad_d.data(), sizes.inside, scratch.framed_grad.data());
            if (b == first) {
                // Of one size with x, since the stride is 1; rows of the frame of grad_x are not used here.
                depthwise<T, true>(scratch.framed_grad.data(), sizes.inside, shape, packed.flipped.data(),
                                   &scratch.grad_x[n * sizes.image], call.out_H, call.out_W);
                continue;
            }
            T* to = &passed[at];
            depthwise<T, false>(scratch.framed_grad.data(), sizes.inside, shape, packed.flipped.data(), to, call.out_H, call.out_W);
            gradient_sums<T, true>(to, earlier + at, earlier_statistics, sizes, &scratch.sums[n * 2 * P]);
        }
        if (weights_wanted) {
            T *d = (T*)call.grad_depthwise[b], *p = (T*)call.grad_pointwise[b];
            for (int64_t c = 0; c < call.C; c++)
                for (int k = 0; k < shape.taps(); k++) d[c * shape.taps() + k] = grad_w[k * P + c];
            for (int64_t o = 0; o < call.C; o++)
                for (int64_t i = 0; i < call.C; i++) p[o * call.C + i] = grad_p[i * P + o];
        }
        if (b > first) g = passed.data();
    }
}

// grad_x of image n: what the threads have found, behind the ReLU.
template <class T>
static void gather_grad_x(const Call& call, const Sizes<T>& sizes, const std::vector<Backward<T>*>& found, bool strided, int64_t n) {
    const int64_t C = call.C, whole = C / Lanes<T>::count * Lanes<T>::count;
    const T* x = (const T*)call.x + n * call.H * call.W * C;
    T* to = (T*)call.grad_x + n * call.H * call.W * C;
    for (int64_t y = 0; y < call.H; y++)
        for (int64_t i = 0; i < call.W; i++, x += C, to += C) {
            const int64_t at = strided ? n * sizes.outside.size() + sizes.outside.at(y, i)
                                       : n * sizes.image + (y * call.W + i) * sizes.P;
            for (int64_t c = 0; c < whole; c += Lanes<T>::count) {
                V<T> sum = load(&found[0]->grad_x[at + c]);
                for (std::size_t t = 1; t < found.size(); t++) sum += load(&found[t]->grad_x[at + c]);
                store(to + c, load(x + c) <= zero<T>() ? zero<T>() : sum);
            }
            for (int64_t c = whole; c < C; c++) {
                T sum = 0;
                for (Backward<T>* part : found) sum += part->grad_x[at + c];
                to[c] = x[c] <= 0 ? 0 : sum;
            }
        }
}

// -- threads --------------------------------------------------------------------------------------------------

// Call work(thread) on each of some threads, this one among them.
template <class F> static void on_threads(int64_t threads, F work) {
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++) others.emplace_back(work, t);
    work(0);
    for (std::thread& other : others) other.join();
}

// The chains of each thread, of about equal work; always the same, so that sums are.
static std::vector<std::vector<int64_t>> shares(const Call& call, int64_t threads) {
    std::vector<std::pair<int64_t, int64_t>> costs;
    for (int64_t j = 0; j < call.chains; j++) {
        int64_t cost = 0;
        for (int64_t b = call.chain_start[j]; b < call.chain_start[j + 1]; b++)
            cost += call.shapes[3 * b] * call.shapes[3 * b] + call.C;
        costs.emplace_back(-cost, j);
    }
    std::sort(costs.begin(), costs.end());
    std::vector<std::vector<int64_t>> result(threads);
    std::vector<int64_t> load(threads, 0);
    for (auto& [cost, j] : costs) {
        const int64_t t = std::min_element(load.begin(), load.end()) - load.begin();
        result[t].push_back(j), load[t] -= cost;
    }
    return result;
}

template <class T> static Array<T> framed_inputs(const Call& call, const Sizes<T>& sizes) {
    Array<T> framed(call.N * sizes.outside.size());
    for (int64_t n = 0; n < call.N; n++)
        frame_relu((const T*)call.x + n * call.H * call.W * call.C, call.C, sizes.outside, &framed[n * sizes.outside.size()]);
    return framed;
}

template <class T> static void forward(const Call& call) {
    const Sizes<T> sizes(call);
    const Array<T> framed = framed_inputs<T>(call, sizes);
    const auto shared = shares(call, call.threads);
    on_threads(call.threads, [&](int64_t t) { run_chains(call, sizes, framed.data(), shared[t]); });
    on_threads(call.threads, [&](int64_t t) {
        for (int64_t i = t; i < call.edges * call.N; i += call.threads) weighted_sum(call, sizes, i / call.N, i % call.N);
    });
}

template <class T> static void backward(const Call& call) {
    const Sizes<T> sizes(call);
    const bool strided = call.chains && call.shapes[2] > 1;
    const Array<T> framed = call.grad_depthwise ? framed_inputs<T>(call, sizes) : Array<T>();
    const auto shared = shares(call, call.threads);
    std::vector<Backward<T>*> found(call.threads, nullptr);
    on_threads(call.threads, [&](int64_t t) {
        found[t] = new Backward<T>(call, sizes);
        for (int64_t j : shared[t]) chain_backward(call, sizes, framed.data(), j, *found[t]);
    });
    on_threads(call.threads, [&](int64_t t) {
        for (int64_t n = t; n < call.N; n += call.threads) {
            gather_grad_x(call, sizes, found, strided, n);
            weighted_sum_backward(call, sizes, n);
        }
    });
    for (Backward<T>* part : found) delete part;
}

template <class T>
static void update(int64_t norms, int64_t C, const T* found, void* const* running, void* const* counts, const double* momenta, int64_t count) {
    const int64_t P = padded<T>(C);
    for (int64_t b = 0; b < norms; b++) {
        T *mean = (T*)running[2 * b], *var = (T*)running[2 * b + 1];
        const T *m = found + b * 3 * P, *v = m + 2 * P;
        const T weight = (T)momenta[b], correction = (T)((double)count / (count - 1));
        for (int64_t c = 0; c < C; c++) {
            mean[c] += weight * (m[c] - mean[c]);
            var[c] += weight * (v[c] * correction - var[c]);
        }
        *(int64_t*)counts[b] += 1;
    }
}

// 0, or 1 when there is no memory: an exception must not reach Python.
template <class F> static int guarded(F work) {
    try { work(); } catch (...) { return 1; }
    return 0;
}

extern "C" {
int forward_float32(const Call* call) { return guarded([=] { forward<float>(*call); }); }
int forward_float64(const Call* call) { return guarded([=] { forward<double>(*call); }); }
int backward_float32(const Call* call) { return guarded([=] { backward<float>(*call); }); }
int backward_float64(const Call* call) { return guarded([=] { backward<double>(*call); }); }
void update_float32(int64_t norms, int64_t C, const float* found, void* const* running, void* const* counts, const double* momenta, int64_t count) {
    update(norms, C, found, running, counts, momenta, count);
}
void update_float64(int64_t norms, int64_t C, const double* found, void* const* running, void* const* counts, const double* momenta, int64_t count) {
    update(norms, C, found, running, counts, momenta, count);
}
int64_t vector_bytes() { return VECTOR_BYTES; }
}
