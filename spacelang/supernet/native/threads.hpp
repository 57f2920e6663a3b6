// Threads, and which chains each of them computes.
#pragma once
#include <algorithm>
#include <thread>
#include <utility>

#include "call.hpp"

// Call work(thread) on each of some threads, this one among them. They are OpenMP's, as PyTorch's are, where the compiler
// has it: threads of our own would wait for PyTorch's, which spin for a while after each of its operators.
template <class F> static void on_threads(int64_t threads, F work) {
#if defined(_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)
    for (int64_t t = 0; t < threads; t++) work(t);
#else
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++) others.emplace_back(work, t);
    work(0);
    for (std::thread& other : others) other.join();
#endif
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
