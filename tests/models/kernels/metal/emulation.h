// What of the Metal Shading Language the kernels use, for a C++ compiler.
//
// A threadgroup runs on one thread of the system, a coroutine a lane. A lane gives way only at a barrier, and a simdgroup
// runs as far as it can before the next one begins, so that a barrier which is missing shows each time: what another
// simdgroup should have written is NaN still, or what it should have read is overwritten. `half` and `bfloat` convert
// only when they are asked to, as Metal's do.
#pragma once
#include <ucontext.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

typedef unsigned int uint;
struct uint3 {
  uint x, y, z;
};

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  explicit bfloat16_t(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    if ((word & 0x7fffffff) > 0x7f800000) {
      bits = uint16_t(word >> 16) | 0x40;
    } else {
      bits = uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
    }
  }
  explicit operator float() const {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
};
struct float16_t {
  _Float16 value;
  float16_t() = default;
  explicit float16_t(float from) : value(static_cast<_Float16>(from)) {}
  explicit operator float() const { return static_cast<float>(value); }
};
static_assert(sizeof(bfloat16_t) == 2 && sizeof(float16_t) == 2, "as they lie in arrays");

#define device
#define constant
#define threadgroup

namespace emulation {

constexpr int LANES = 32;
constexpr size_t STACK = 64 * 1024;
constexpr int MOST_SHARED = 1024;

enum Waits { NOTHING, SIMDGROUP, THREADGROUP, ENDED };

struct Lane {
  ucontext_t context;
  Waits waits = NOTHING;
  int sums = 0;
  std::unique_ptr<char[]> stack{new char[STACK]};
};

struct Group {
  std::vector<Lane> lanes;
  std::vector<std::array<std::array<float, LANES>, 2>> sums;  // two, as a lane may be one sum ahead
  float shared[MOST_SHARED];
  ucontext_t scheduler;
  uint position = 0;
  int current = 0;
};

extern Group* group;
extern void (*body)(uint position, uint lane);

inline void wait(Waits reason) {
  Lane& lane = group->lanes[group->current];
  lane.waits = reason;
  swapcontext(&lane.context, &group->scheduler);
}

inline void begin_lane() {
  body(group->position, uint(group->current));
  group->lanes[group->current].waits = ENDED;
  swapcontext(&group->lanes[group->current].context, &group->scheduler);
}

// Whether all lanes [first, last) wait for that; -1 where some do and others have ended, which Metal leaves undefined.
inline int all_wait(int first, int last, Waits reason) {
  int waiting = 0;
  for (int i = first; i < last; ++i) waiting += group->lanes[i].waits == reason;
  if (waiting == 0 || waiting == last - first) return waiting > 0;
  for (int i = first; i < last; ++i) {
    if (group->lanes[i].waits == ENDED) return -1;
  }
  return 0;
}

inline void release(int first, int last) {
  for (int i = first; i < last; ++i) group->lanes[i].waits = NOTHING;
}

// Runs one threadgroup. Returns whether every lane came to every barrier.
inline bool run_group(bool backwards) {
  const int threads = int(group->lanes.size()), simdgroups = threads / LANES;
  for (float& value : group->shared) value = NAN;
  for (int i = 0; i < threads; ++i) {
    Lane& lane = group->lanes[i];
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.get();
    lane.context.uc_stack.ss_size = STACK;
    lane.context.uc_link = nullptr;
    lane.waits = NOTHING;
    lane.sums = 0;
    makecontext(&lane.context, begin_lane, 0);
  }
  for (;;) {
    for (int s = 0; s < simdgroups; ++s) {
      const int first = LANES * (backwards ? simdgroups - 1 - s : s);
      for (;;) {
        for (int i = first; i < first + LANES; ++i) {
          if (group->lanes[i].waits != NOTHING) continue;
          group->current = i;
          swapcontext(&group->scheduler, &group->lanes[i].context);
        }
        const int together = all_wait(first, first + LANES, SIMDGROUP);
        if (together < 0) return false;
        if (!together) break;
        release(first, first + LANES);
      }
    }
    if (all_wait(0, threads, ENDED) == 1) return true;
    if (all_wait(0, threads, THREADGROUP) != 1) return false;
    release(0, threads);
  }
}

template <int SIZE>
float* shared_memory() {
  static_assert(SIZE <= MOST_SHARED, "more than is emulated");
  return group->shared;
}

inline bool run(uint groups, uint threads, bool backwards, void (*kernel)(uint, uint)) {
  Group here;
  here.lanes.resize(threads);
  here.sums.resize(threads / LANES);
  group = &here;
  body = kernel;
  for (here.position = 0; here.position < groups; ++here.position) {
    if (!run_group(backwards)) return false;
  }
  return true;
}

}  // namespace emulation

namespace metal {
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { emulation::wait(emulation::THREADGROUP); }
inline float simd_sum(float value) {
  emulation::Group& group = *emulation::group;
  const int index = group.current;
  auto& values = group.sums[index / emulation::LANES][group.lanes[index].sums++ % 2];
  values[index % emulation::LANES] = value;
  emulation::wait(emulation::SIMDGROUP);
  float sum = 0;
  for (float each : values) sum += each;
  return sum;
}
namespace precise {
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
}  // namespace precise
inline float exp(float x) { return std::exp(x); }
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
}  // namespace metal
using namespace metal;
