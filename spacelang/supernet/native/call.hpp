// What Python hands over, and the sizes that follow from it.
#pragma once
#include <algorithm>

#include "frames.hpp"

// What Python hands over; `_Call` in operators.py has the same fields in the same order.
struct Call {
    int64_t N, H, W, C, out_H, out_W;
    int64_t edges, chains, features, pools, threads;  // the first features are pools of x
    int64_t batch_statistics;    // normalise with those of the batch, not with the running ones
    int64_t mix_columns;         // 1, or N: a weight for each sample
    const int32_t* chain_edge;   // (chains,), increasing
    const int32_t* chain_silent; // (chains,): 1 if only the gradient of its weight is wanted
    const int32_t* chain_start;  // (chains + 1,): the first block of each
    const int32_t* shapes;       // (blocks, 3): kernel, dilation, stride
    const int32_t* pool_shapes;  // (pools, 3): kernel, stride, 1 for the maximum and 0 for the average
    const double* eps;           // (blocks + pools,)
    const void* const* depthwise;      // (blocks,) of (C, k, k)
    const void* const* pointwise;      // (blocks,) of (C out, C in)
    const void* const* running_mean;   // (blocks + pools,) of (C,)
    const void* const* running_var;
    const void* x;
    const void* const* given;    // (features - pools,) like an output
    const void* mix;             // (chains + edges * features, mix_columns)
    void* normalised;            // (blocks + pools, N, out_H, out_W, P): inputs of the batch norms
    void* statistics;            // (blocks + pools, 3, P): mean, 1 / sqrt(var + eps), var
    void* const* out;            // (edges,)
    // Backwards only; a null pointer is a gradient nobody asked for.
    const void* const* grad_out;
    void* grad_x;
    void* const* grad_given;
    void* grad_mix;
    void* const* grad_depthwise;
    void* const* grad_pointwise;

    int64_t term(int64_t edge, int64_t feature) const { return chains + edge * features + feature; }
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

template <class T> static T mix_of(const Call& call, int64_t term, int64_t n) {
    return ((const T*)call.mix)[call.mix_columns == 1 ? term : term * call.mix_columns + n];
}
