// Separable convolutions that leave one feature map of a cell, and their weighted sums, forwards and backwards.
//
// A chain is one or more blocks of ReLU, depthwise convolution, 1x1 convolution and batch norm without parameters.
// All chains read x. Each edge gets the weighted sum of its chains and of features that all edges share:
//
//     out[e] = sum_{chain j of e} mix[j] * chain_j(x) + sum_f mix[chains + e F + f] * feature_f
//
// The first features are pools of x with a batch norm, the others are given.
//
// Tensors are NHWC. Inside, channels are padded with zeros to whole vectors: P instead of C of them. Vectors are the
// compiler's (GCC and Clang), so one source serves AVX2, AVX-512 and NEON.
//
// vectors.hpp    vectors and memory          norms.hpp      batch norms
// call.hpp       what Python hands over      chains.hpp     chains, of the kernels
// frames.hpp     margins of zeros            pools.hpp      pools
// depthwise.hpp  depthwise convolutions      sums.hpp       weighted sums
// products.hpp   1x1 convolutions            threads.hpp    threads
#include "chains.hpp"
#include "pools.hpp"
#include "sums.hpp"
#include "threads.hpp"

template <class T> static Array<T> framed_inputs(const Call& call, const Sizes<T>& sizes) {
    Array<T> framed(call.N * sizes.outside.size());
    for (int64_t n = 0; n < call.N; n++)
        frame_relu((const T*)call.x + n * call.H * call.W * call.C, call.C, sizes.outside, &framed[n * sizes.outside.size()]);
    return framed;
}

template <class T> static void forward(const Call& call) {
    const Sizes<T> sizes(call);
    const int64_t norms = call.chain_start[call.chains] + call.pools;
    use_large_pages(call.normalised, norms * sizes.block * sizeof(T));
    const Array<T> framed = framed_inputs<T>(call, sizes);
    const auto shared = shares(call, call.threads);
    on_threads(call.threads, [&](int64_t t) {
        run_chains(call, sizes, framed.data(), shared[t]);
        for (int64_t f = t; f < call.pools; f += call.threads) run_pool(call, sizes, f);
    });
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
    PoolGradients<T> of_pools(call, sizes);
    on_threads(call.threads, [&](int64_t t) {
        for (int64_t n = t; call.pools && n < call.N; n += call.threads) pool_gradients(call, sizes, n, of_pools);
        found[t] = new Backward<T>(call, sizes);
        for (int64_t j : shared[t]) chain_backward(call, sizes, framed.data(), j, *found[t]);
    });
    of_pools.add_up(call, sizes);
    on_threads(call.threads, [&](int64_t t) {
        for (int64_t n = t; n < call.N; n += call.threads) {
            gather_grad_x(call, sizes, found, strided, n);
            if (call.pools) pools_backward(call, sizes, of_pools, n);
            given_backward(call, sizes, n);
        }
    });
    for (Backward<T>* part : found) delete part;
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
