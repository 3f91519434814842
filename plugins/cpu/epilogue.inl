// The end of a block: sums in table order become activated, gated rows of y.

// e^x, relative error below 2e-7 for |x| <= 87; beyond, x is clamped. Cody and Waite's reduction
// x = n ln 2 + r, |r| <= 0.347, and e^r's Taylor polynomial of degree 7 (remainder 5e-9).
inline Float8 exponential(Float8 x) {
  x = minimum(maximum(x, broadcast(-87.0f)), broadcast(87.0f));
  const Float8 n = nearest(multiply(x, broadcast(1.44269504f)));
  Float8 r = multiply_add(n, broadcast(-0.693359375f), x);
  r = multiply_add(n, broadcast(2.12194440e-4f), r);
  Float8 p = broadcast(1.0f / 5040);
  const float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float c : coefficients) p = multiply_add(p, r, broadcast(c));
  return scale_by_power_of_two(p, n);
}

// Both activations are y / (1 + e^-z): silu with z = y; gelu_tanh with z = 2 sqrt(2 / pi)
// (y + 0.044715 y^3), since (1 + tanh(z / 2)) / 2 = 1 / (1 + e^-z). No cancellation for y << 0.
inline Float8 activate(Float8 y, int activation) {
  if (activation == 0) return y;
  Float8 minus_z = multiply(y, broadcast(-1.0f));
  if (activation == 1) {
    const Float8 cubic = multiply_add(multiply(y, y), broadcast(0.044715f), broadcast(1.0f));
    minus_z = multiply(multiply(minus_z, cubic), broadcast(1.5957691216f));
  }
  return divide(y, add(broadcast(1.0f), exponential(minus_z)));
}

inline void store_some(float* target, Float8 value, int64_t count) {
  if (count >= 8) return store(target, value);
  float all[8];
  store(all, value);
  for (int64_t i = 0; i < count; ++i) target[i] = all[i];
}

inline Float8 load_some(const float* source, int64_t count) {
  if (count >= 8) return load(source);
  float all[8] = {};
  for (int64_t i = 0; i < count; ++i) all[i] = source[i];
  return load(all);
}

// Writes outputs o..o+7 of the task in one row of y: activation, or gate and residual.
inline void write_outputs(const BlockTask& task, int64_t row, int64_t o, Float8 value) {
  const int64_t present = task.count - o;
  const int64_t place = row * task.out_features + task.begin + o;
  value = activate(value, task.activation);
  if (task.residual) {
    const float* gate = task.gate + row / task.rows_per_gate * task.out_features + task.begin + o;
    value = multiply_add(load_some(gate, present), value,
                         load_some(task.residual + place, present));
  }
  store_some(task.y + place, value, present);
}

// Turns sums[output][lane] into rows of y.
template <int Rows>
void finish(const BlockTask& task) {
  for (int64_t o = 0; o < task.count; o += 8) {
    for (int half = 0; half < Rows && half < task.num_rows; half += 8) {
      Float8 tile[8];
      for (int i = 0; i < 8; ++i) tile[i] = load(task.sums + (o + i) * Rows + half);
      transpose(tile);
      for (int lane = 0; lane < 8 && half + lane < task.num_rows; ++lane) {
        write_outputs(task, task.row + half + lane, o, tile[lane]);
      }
    }
  }
}
