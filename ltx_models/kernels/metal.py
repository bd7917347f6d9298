"""The Metal kernels: a threadgroup of THREADS works on one row (a token) of D channels, four channels a load."""

from __future__ import annotations

__all__ = [
    "ACTIVATE",
    "ADD_AND_MODULATE",
    "ADD_DELAYED",
    "BIAS_GELU",
    "GATED_ADD",
    "HEADER",
    "MODULATE",
    "NORM_AND_ROTATE",
]

HEADER = """
template <int THREADS>
inline float total(float value, threadgroup float* parts, uint simdgroup, uint lane) {
  value = simd_sum(value);
  if (THREADS > 32) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the parts of the sum before may still be read
    if (lane == 0) parts[simdgroup] = value;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    value = 0.0f;
    for (int i = 0; i < THREADS / 32; ++i) value += parts[i];
  }
  return value;
}
"""

_ROW = """
  constexpr int VEC = 4;
  constexpr int CHUNKS = D / VEC;
  constexpr int ITEMS = (CHUNKS + THREADS - 1) / THREADS;
  const int row = int(threadgroup_position_in_grid.x);
  const int thread_index = int(thread_position_in_threadgroup.x);
  const size_t start = size_t(row) * D;
"""

_PARTS = """
  threadgroup float parts[THREADS > 32 ? THREADS / 32 : 1];
  const uint simdgroup = simdgroup_index_in_threadgroup;
  const uint lane = thread_index_in_simdgroup;
"""

_READ = """
  const int place = places[row % places_shape[0]];
  float v[ITEMS][VEC];
  float sum = 0.0f;
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = thread_index + i * THREADS;
    for (int j = 0; j < VEC; ++j) v[i][j] = 0.0f;
    if (chunk < CHUNKS) {
      for (int j = 0; j < VEC; ++j) {
        const size_t at = start + chunk * VEC + j;
        T x = tokens[at];
  // the sum
        v[i][j] = static_cast<float>(x);
        sum += LAYER ? v[i][j] : v[i][j] * v[i][j];
      }
    }
  }
"""

_ADD = """
        if (GATED) {
          const size_t gate = (size_t(place) * ROWS + GATE) * D + chunk * VEC + j;
          x = static_cast<T>(static_cast<float>(x) + static_cast<float>(gates[gate]) * static_cast<float>(branch[at]));
        } else {
          x = static_cast<T>(static_cast<float>(x) + static_cast<float>(branch[at]));
        }
        summed[at] = x;
"""

_NORM = """
  float mean = 0.0f;
  float squares = total<THREADS>(sum, parts, simdgroup, lane);
  if (LAYER) {
    mean = squares / D;
    sum = 0.0f;
    for (int i = 0; i < ITEMS; ++i) {
      if (thread_index + i * THREADS < CHUNKS) {
        for (int j = 0; j < VEC; ++j) sum += (v[i][j] - mean) * (v[i][j] - mean);
      }
    }
    squares = total<THREADS>(sum, parts, simdgroup, lane);
  }
  const float inverse = metal::precise::rsqrt(squares / D + EPS * 1e-12f);
  const size_t values = size_t(place) * MODULATION_ROWS * D;
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = thread_index + i * THREADS;
    if (chunk < CHUNKS) {
      for (int j = 0; j < VEC; ++j) {
        const int channel = chunk * VEC + j;
        const float shift = static_cast<float>(modulation[values + SHIFT * D + channel]);
        const float scale = static_cast<float>(modulation[values + SCALE * D + channel]);
        normed[start + channel] = static_cast<T>((v[i][j] - mean) * inverse * (1.0f + scale) + shift);
      }
    }
  }
"""

MODULATE = _ROW + _PARTS + _READ + _NORM
ADD_AND_MODULATE = _ROW + _PARTS + _READ.replace("  // the sum\n", _ADD) + _NORM
GATED_ADD = (
    _ROW
    + """
  const int place = places[row % places_shape[0]];
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = thread_index + i * THREADS;
    if (chunk < CHUNKS) {
      for (int j = 0; j < VEC; ++j) {
        const size_t at = start + chunk * VEC + j;
        T x = tokens[at];
"""
    + _ADD
    + """
      }
    }
  }
"""
)

NORM_AND_ROTATE = (
    _ROW
    + _PARTS
    + """
  const size_t source = size_t(row) * 3 * D;
  const size_t turn = size_t(row % cosines_shape[0]) * (D / 2);
  float q[ITEMS][VEC], k[ITEMS][VEC];
  float q_sum = 0.0f, k_sum = 0.0f;
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = thread_index + i * THREADS;
    for (int j = 0; j < VEC; ++j) {
      q[i][j] = chunk < CHUNKS ? static_cast<float>(projected[source + chunk * VEC + j]) : 0.0f;
      k[i][j] = chunk < CHUNKS ? static_cast<float>(projected[source + D + chunk * VEC + j]) : 0.0f;
      q_sum += q[i][j] * q[i][j];
      k_sum += k[i][j] * k[i][j];
    }
  }
  const float q_inverse = metal::precise::rsqrt(total<THREADS>(q_sum, parts, simdgroup, lane) / D + EPS * 1e-12f);
  const float k_inverse = metal::precise::rsqrt(total<THREADS>(k_sum, parts, simdgroup, lane) / D + EPS * 1e-12f);
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = thread_index + i * THREADS;
    if (chunk < CHUNKS) {
      for (int j = 0; j < VEC; j += 2) {
        const int channel = chunk * VEC + j;
        const float c = cosines[turn + channel / 2], s = sines[turn + channel / 2];
        float a = q[i][j] * q_inverse * static_cast<float>(q_weight[channel]);
        float b = q[i][j + 1] * q_inverse * static_cast<float>(q_weight[channel + 1]);
        queries[start + channel] = static_cast<T>(a * c - b * s);
        queries[start + channel + 1] = static_cast<T>(b * c + a * s);
        a = k[i][j] * k_inverse * static_cast<float>(k_weight[channel]);
        b = k[i][j + 1] * k_inverse * static_cast<float>(k_weight[channel + 1]);
        keys[start + channel] = static_cast<T>(a * c - b * s);
        keys[start + channel + 1] = static_cast<T>(b * c + a * s);
      }
    }
  }
"""
)

BIAS_GELU = """
  constexpr int VEC = 4;
  constexpr int CHUNKS = D / VEC;
  const size_t chunk = size_t(threadgroup_position_in_grid.x) * THREADS + thread_position_in_threadgroup.x;
  if (chunk < size_t(hidden_shape[0]) * CHUNKS) {
    for (int j = 0; j < VEC; ++j) {
      const size_t at = chunk * VEC + j;
      const float value = static_cast<float>(hidden[at]) + static_cast<float>(bias[at % D]);
      // x * (1 + tanh(u)) / 2 = x / (1 + exp(-2u))
      const float u = 0.7978845608f * (value + 0.044715f * value * value * value);
      activated[at] = static_cast<T>(value / (1.0f + metal::exp(-2.0f * u)));
    }
  }
"""

# A simdgroup for each position of a frame.
ACTIVATE = """
  constexpr int CHUNKS = D / VEC;
  constexpr int ITEMS = CHUNKS / 32;
  const int lane = int(thread_position_in_threadgroup.x) % 32;
  const int row =
      int(threadgroup_position_in_grid.x) * (THREADS / 32) + int(thread_position_in_threadgroup.x) / 32;
  const int positions = frames_shape[1];
  const int frame = row / positions;
  if (frame >= layout[3]) return;
  const size_t target = size_t(row) * D;
  if (frame < layout[0]) {
    for (int i = lane; i < D; i += 32) padded[target + i] = context[target + i];
    return;
  }
  const int source_frame = min(max(frame - layout[0] - layout[1], 0), layout[2] - 1);
  const size_t source = (size_t(source_frame) * positions + row % positions) * D;
  float v[ITEMS][VEC];
  float sum = 0.0f;
  for (int i = 0; i < ITEMS; ++i) {
    for (int j = 0; j < VEC; ++j) {
      const int channel = (lane + i * 32) * VEC + j;
      v[i][j] = static_cast<float>(frames[source + channel]) + static_cast<float>(bias[channel]);
      sum += v[i][j] * v[i][j];
    }
  }
  const float inverse = metal::precise::rsqrt(simd_sum(sum) / D + EPS * 1e-12f);
  for (int i = 0; i < ITEMS; ++i) {
    for (int j = 0; j < VEC; ++j) {
      const int channel = (lane + i * 32) * VEC + j;
      const float value =
          v[i][j] * inverse * (1.0f + static_cast<float>(scale[channel])) + static_cast<float>(shift[channel]);
      padded[target + channel] = static_cast<T>(value / (1.0f + metal::exp(-value)));
    }
  }
"""

ADD_DELAYED = """
  const int channels = branch_shape[2];
  const size_t chunk = size_t(threadgroup_position_in_grid.x) * THREADS + thread_position_in_threadgroup.x;
  const size_t of_frame = size_t(branch_shape[1]) * (channels / VEC);
  if (chunk < branch_shape[0] * of_frame) {
    const size_t of_kept = count[0] * of_frame;
    const int first = int(chunk % size_t(channels / VEC)) * VEC;  // once a chunk: a modulo of 64 bits is slow
    for (int j = 0; j < VEC; ++j) {
      const size_t at = chunk * VEC + j;
      const T x = chunk < of_kept ? kept[at] : frames[at - of_kept * VEC];
      summed[at] = static_cast<T>(
          static_cast<float>(x) + (static_cast<float>(branch[at]) + static_cast<float>(bias[first + j])));
    }
  }
"""
