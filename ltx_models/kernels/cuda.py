"""The CUDA kernels: bodies of functions whose signature MLX generates from a `Kernel`, compiled when first used.

A block of THREADS works on one row (a token) of D channels, 16 bytes a load; sums are float32 in a fixed order, so the
same input gives the same bits.
"""

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
__device__ inline float total(float value) {
  for (int offset = 16; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  if constexpr (THREADS > 32) {
    __shared__ float parts[THREADS / 32];
    __syncthreads();  // the parts of the sum before may still be read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0.0f;
    #pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) value += parts[i];
  }
  return value;
}
"""

_ROW = """
  constexpr int VEC = 16 / sizeof(T);
  constexpr int CHUNKS = D / VEC;
  constexpr int ITEMS = (CHUNKS + THREADS - 1) / THREADS;
  using Vector = AlignedVector<T, VEC>;
  const int row = blockIdx.x;
  const size_t start = size_t(row) * CHUNKS;
"""

_READ = """
  const int place = places[row % places_shape[0]];
  float v[ITEMS][VEC];
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      Vector x = reinterpret_cast<const Vector*>(tokens)[start + chunk];
  // the sum
      #pragma unroll
      for (int j = 0; j < VEC; ++j) {
        v[i][j] = static_cast<float>(x.val[j]);
        sum += LAYER ? v[i][j] : v[i][j] * v[i][j];
      }
    } else {
      #pragma unroll
      for (int j = 0; j < VEC; ++j) v[i][j] = 0.0f;
    }
  }
"""

_ADD = """
      const Vector y = reinterpret_cast<const Vector*>(branch)[start + chunk];
      if constexpr (GATED) {
        const Vector g = reinterpret_cast<const Vector*>(gates)[(size_t(place) * ROWS + GATE) * CHUNKS + chunk];
        #pragma unroll
        for (int j = 0; j < VEC; ++j)
          x.val[j] = static_cast<T>(
              static_cast<float>(x.val[j]) + static_cast<float>(g.val[j]) * static_cast<float>(y.val[j]));
      } else {
        #pragma unroll
        for (int j = 0; j < VEC; ++j)
          x.val[j] = static_cast<T>(static_cast<float>(x.val[j]) + static_cast<float>(y.val[j]));
      }
      reinterpret_cast<Vector*>(summed)[start + chunk] = x;
"""

_NORM = """
  // Read while the sum is being made.
  Vector shift[ITEMS], scale[ITEMS];
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      const Vector* values = reinterpret_cast<const Vector*>(modulation) + size_t(place) * MODULATION_ROWS * CHUNKS;
      shift[i] = values[SHIFT * CHUNKS + chunk];
      scale[i] = values[SCALE * CHUNKS + chunk];
    }
  }
  float mean = 0.0f;
  float squares = total<THREADS>(sum);
  if constexpr (LAYER) {
    mean = squares / D;
    sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
      if (threadIdx.x + i * THREADS < CHUNKS) {
        #pragma unroll
        for (int j = 0; j < VEC; ++j) sum += (v[i][j] - mean) * (v[i][j] - mean);
      }
    }
    squares = total<THREADS>(sum);
  }
  const float inverse = rsqrtf(squares / D + EPS * 1e-12f);
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      Vector out;
      #pragma unroll
      for (int j = 0; j < VEC; ++j) {
        const float normed_value = (v[i][j] - mean) * inverse;
        out.val[j] = static_cast<T>(
            normed_value * (1.0f + static_cast<float>(scale[i].val[j])) + static_cast<float>(shift[i].val[j]));
      }
      reinterpret_cast<Vector*>(normed)[start + chunk] = out;
    }
  }
"""

MODULATE = _ROW + _READ + _NORM
ADD_AND_MODULATE = _ROW + _READ.replace("  // the sum\n", _ADD) + _NORM
GATED_ADD = (
    _ROW
    + """
  const int place = places[row % places_shape[0]];
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      Vector x = reinterpret_cast<const Vector*>(tokens)[start + chunk];
"""
    + _ADD
    + """
    }
  }
"""
)

NORM_AND_ROTATE = (
    _ROW
    + """
  using Angles = AlignedVector<float, VEC / 2>;
  const Vector* source = reinterpret_cast<const Vector*>(projected) + size_t(row) * 3 * CHUNKS;
  const size_t turn = size_t(row % cosines_shape[0]) * CHUNKS;
  Vector q[ITEMS], k[ITEMS];
  Angles cosine[ITEMS], sine[ITEMS];
  float q_sum = 0.0f, k_sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      q[i] = source[chunk];
      k[i] = source[CHUNKS + chunk];
      cosine[i] = reinterpret_cast<const Angles*>(cosines)[turn + chunk];
      sine[i] = reinterpret_cast<const Angles*>(sines)[turn + chunk];
      #pragma unroll
      for (int j = 0; j < VEC; ++j) {
        const float a = static_cast<float>(q[i].val[j]), b = static_cast<float>(k[i].val[j]);
        q_sum += a * a;
        k_sum += b * b;
      }
    }
  }
  const float q_inverse = rsqrtf(total<THREADS>(q_sum) / D + EPS * 1e-12f);
  const float k_inverse = rsqrtf(total<THREADS>(k_sum) / D + EPS * 1e-12f);
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const int chunk = threadIdx.x + i * THREADS;
    if (chunk < CHUNKS) {
      const Vector q_scale = reinterpret_cast<const Vector*>(q_weight)[chunk];
      const Vector k_scale = reinterpret_cast<const Vector*>(k_weight)[chunk];
      Vector q_out, k_out;
      #pragma unroll
      for (int j = 0; j < VEC; j += 2) {
        const float c = cosine[i].val[j / 2], s = sine[i].val[j / 2];
        float a = static_cast<float>(q[i].val[j]) * q_inverse * static_cast<float>(q_scale.val[j]);
        float b = static_cast<float>(q[i].val[j + 1]) * q_inverse * static_cast<float>(q_scale.val[j + 1]);
        q_out.val[j] = static_cast<T>(a * c - b * s);
        q_out.val[j + 1] = static_cast<T>(b * c + a * s);
        a = static_cast<float>(k[i].val[j]) * k_inverse * static_cast<float>(k_scale.val[j]);
        b = static_cast<float>(k[i].val[j + 1]) * k_inverse * static_cast<float>(k_scale.val[j + 1]);
        k_out.val[j] = static_cast<T>(a * c - b * s);
        k_out.val[j + 1] = static_cast<T>(b * c + a * s);
      }
      reinterpret_cast<Vector*>(queries)[start + chunk] = q_out;
      reinterpret_cast<Vector*>(keys)[start + chunk] = k_out;
    }
  }
"""
)

BIAS_GELU = """
  constexpr int VEC = 16 / sizeof(T);
  constexpr int CHUNKS = D / VEC;
  using Vector = AlignedVector<T, VEC>;
  const size_t chunk = size_t(blockIdx.x) * THREADS + threadIdx.x;
  if (chunk < size_t(hidden_shape[0]) * CHUNKS) {
    Vector x = reinterpret_cast<const Vector*>(hidden)[chunk];
    const Vector b = reinterpret_cast<const Vector*>(bias)[chunk % CHUNKS];
    #pragma unroll
    for (int j = 0; j < VEC; ++j) {
      const float value = static_cast<float>(x.val[j]) + static_cast<float>(b.val[j]);
      // x * (1 + tanh(u)) / 2 = x / (1 + exp(-2u))
      const float u = 0.7978845608f * (value + 0.044715f * value * value * value);
      x.val[j] = static_cast<T>(__fdividef(value, 1.0f + __expf(-2.0f * u)));
    }
    reinterpret_cast<Vector*>(activated)[chunk] = x;
  }
"""

# A warp for each position of a frame. layout: frames of the context, repeats of the first frame, frames, frames in all.
ACTIVATE = """
  using Vector = AlignedVector<T, VEC>;
  constexpr int CHUNKS = D / VEC;
  constexpr int ITEMS = CHUNKS / 32;
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  const int positions = frames_shape[1];
  const int frame = row / positions;
  if (frame >= layout[3]) return;
  const size_t target = size_t(row) * CHUNKS;
  if (frame < layout[0]) {
    #pragma unroll
    for (int i = 0; i < ITEMS; ++i)
      reinterpret_cast<Vector*>(padded)[target + lane + i * 32] =
          reinterpret_cast<const Vector*>(context)[target + lane + i * 32];
    return;
  }
  const int source_frame = min(max(frame - layout[0] - layout[1], 0), layout[2] - 1);
  const size_t source = (size_t(source_frame) * positions + row % positions) * CHUNKS;
  float v[ITEMS][VEC];
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const Vector x = reinterpret_cast<const Vector*>(frames)[source + lane + i * 32];
    const Vector b = reinterpret_cast<const Vector*>(bias)[lane + i * 32];
    #pragma unroll
    for (int j = 0; j < VEC; ++j) {
      v[i][j] = static_cast<float>(x.val[j]) + static_cast<float>(b.val[j]);
      sum += v[i][j] * v[i][j];
    }
  }
  const float inverse = rsqrtf(total<32>(sum) / D + EPS * 1e-12f);
  #pragma unroll
  for (int i = 0; i < ITEMS; ++i) {
    const Vector shifts = reinterpret_cast<const Vector*>(shift)[lane + i * 32];
    const Vector scales = reinterpret_cast<const Vector*>(scale)[lane + i * 32];
    Vector out;
    #pragma unroll
    for (int j = 0; j < VEC; ++j) {
      const float value =
          v[i][j] * inverse * (1.0f + static_cast<float>(scales.val[j])) + static_cast<float>(shifts.val[j]);
      out.val[j] = static_cast<T>(__fdividef(value, 1.0f + __expf(-value)));
    }
    reinterpret_cast<Vector*>(padded)[target + lane + i * 32] = out;
  }
"""

# A thread for each chunk of channels. kept: frames before those of `frames`; count: how many.
ADD_DELAYED = """
  using Vector = AlignedVector<T, VEC>;
  const int chunks = branch_shape[2] / VEC;
  const size_t at = size_t(blockIdx.x) * THREADS + threadIdx.x;
  const size_t of_frame = size_t(branch_shape[1]) * chunks;
  if (at < branch_shape[0] * of_frame) {
    const size_t of_kept = count[0] * of_frame;
    Vector x = at < of_kept ? reinterpret_cast<const Vector*>(kept)[at]
                            : reinterpret_cast<const Vector*>(frames)[at - of_kept];
    const Vector y = reinterpret_cast<const Vector*>(branch)[at];
    const Vector b = reinterpret_cast<const Vector*>(bias)[at % chunks];
    #pragma unroll
    for (int j = 0; j < VEC; ++j)
      x.val[j] = static_cast<T>(
          static_cast<float>(x.val[j]) + (static_cast<float>(y.val[j]) + static_cast<float>(b.val[j])));
    reinterpret_cast<Vector*>(summed)[at] = x;
  }
"""
