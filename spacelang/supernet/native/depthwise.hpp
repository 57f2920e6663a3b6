// Depthwise convolutions of one image, and their gradients.
#pragma once
#include <algorithm>
#include <type_traits>

#include "frames.hpp"

struct Shape {
    int kernel, dilation, stride;
    int margin() const { return dilation * (kernel / 2); }
    int taps() const { return kernel * kernel; }
};

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
