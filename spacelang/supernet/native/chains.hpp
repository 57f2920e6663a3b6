// Chains of depthwise convolution, 1x1 convolution and batch norm: those of one thread, forwards and backwards.
#pragma once
#include <cstring>

#include "depthwise.hpp"
#include "norms.hpp"
#include "products.hpp"

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

// Scratch of a thread that goes backwards through chains.
template <class T> struct Backward {
    Array<T> between, framed_grad, convolved, grad_y, grad_d, grads[2], grad_x, wide;
    Array<double> sums;
    Backward(const Call& call, const Sizes<T>& s)
        : between(s.inside.size()), framed_grad(s.inside.size()), convolved(s.image), grad_y(s.image),
          grad_d(s.image), grad_x(call.N * s.outside.size()),
          sums(call.N * 2 * s.P) {}
};

template <class T>
static void chain_backward(const Call& call, const Sizes<T>& sizes, const T* framed_x, int64_t chain, Backward<T>& scratch) {
    const int64_t P = sizes.P, first = call.chain_start[chain], last = call.chain_start[chain + 1] - 1;
    const double count = (double)call.N * sizes.pixels;
    const bool weights_wanted = call.grad_depthwise != nullptr;
    const T* g = widened((const T*)call.grad_out[call.chain_edge[chain]], call.N * sizes.pixels, call.C, P, scratch.wide);
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
