// A whole pass of a Llama-like model: embedding, layers, logits of the rows asked for.
//
// Activations are float32; only queries, keys and values are in the format of the pool. Whatever a product reads is written in
// the layout that it reads (linear.h), so norms and activations cost no pass of their own over memory.
#include <algorithm>
#include <cmath>

#include "attend.h"
#include "linear.h"
#include "lora.h"
#include "pool.h"

extern "C" {

struct PieLlamaLayer {
    pie::Weight inputs[3];  // query, key, value; or `input_count` joined ones with the same columns
    int32_t input_count;
    int32_t window;
    pie::Weight output;
    pie::Weight gate;
    pie::Weight up;
    pie::Weight down;
    const float* attention_norm;  // [hidden]
    const float* mlp_norm;        // [hidden]
    const float* query_norm;      // [head_dim] or null
    const float* key_norm;        // [head_dim] or null
};

struct PieLlama {
    const PieLlamaLayer* layers;
    const void* embedding;  // [vocab, hidden] in `format`
    const float* norm;      // [hidden]
    pie::Weight head;
    int32_t layer_count;
    int32_t vocab;
    int32_t hidden;
    int32_t heads;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t format;  // of embedding and pool
    float epsilon;
    float scale;  // of scores
};

struct PieLlamaPass {
    int64_t rows;
    const int32_t* tokens;
    const float* cosines;  // [rows, head_dim]
    const float* sines;
    int64_t wanted_count;
    const int32_t* wanted;  // rows whose logits are asked for, each once
    float* logits;          // [wanted_count, vocab]
    int64_t state_count;
    const int32_t* state_rows;  // rows of which is asked what the head reads
    float* states;              // [state_count, hidden]
    pie_attend_fn attend;
    void* plan;
    int32_t threads;
    const PieLora* lora;  // null when no row has adapters
};
}

namespace pie {
namespace {

// Rows of small work that are worth handing to another thread.
int64_t grain(int64_t width) { return std::max<int64_t>(1, 16384 / width); }

float inverse_rms(const float* row, int64_t width, float epsilon) {
    vf sums = vzero();
    for (int64_t k = 0; k < width; k += kWidth) {
        const vf value = vload(row + k);
        sums = vfma(value, value, sums);
    }
    return 1.0f / std::sqrt(vsum(sums) / static_cast<float>(width) + epsilon);
}

// Root-mean-square norm of rows, packed. `row_of(i)` is where row i lies.
template <class RowOf>
void norm(const PieLlama& model, const float* weight, int64_t rows, float* packed, int threads, RowOf row_of) {
    const Blocks blocks(rows);
    parallel_for(rows <= grain(model.hidden) ? 1 : threads, blocks.count, [&](int64_t block) {
        const int64_t first = blocks.first(block), width = blocks.width(block);
        const float* row[kMostRows];
        float factor[kMostRows];
        for (int64_t r = 0; r < width; r++) {
            row[r] = row_of(first + r);
            factor[r] = inverse_rms(row[r], model.hidden, model.epsilon);
        }
        pack_block(width, model.hidden, packed + first * model.hidden,
                   [&](int64_t r, int64_t k) { return vload(row[r] + k) * vset(factor[r]) * vload(weight + k); });
    });
}

template <class T>
void embed(const PieLlama& model, const PieLlamaPass& pass, float* x) {
    const T* const table = static_cast<const T*>(model.embedding);
    for (int64_t r = 0; r < pass.rows; r++) {
        const T* const from = table + static_cast<int64_t>(pass.tokens[r]) * model.hidden;
        for (int64_t k = 0; k < model.hidden; k += kWidth) vstore(x + r * model.hidden + k, vload(from + k));
    }
}

// Norms heads where the model does, turns queries and keys by their positions, and writes all three in the pool's format.
template <class T>
void rotate(const PieLlama& model, const PieLlamaLayer& layer, const PieLlamaPass& pass, const float* from, T* to) {
    const int64_t dim = model.head_dim, half = dim / 2, heads = model.heads + model.kv_heads;
    const int64_t stride = (heads + model.kv_heads) * dim;
    parallel_ranges(pass.threads, pass.rows, grain(stride), [&](int64_t begin, int64_t end) {
        thread_local Room room;
        float* const turned = room.floats(2 * dim);
        float* const normed = turned + dim;
        for (int64_t r = begin; r < end; r++) {
            const float* const cosines = pass.cosines + r * dim;
            const float* const sines = pass.sines + r * dim;
            for (int64_t h = 0; h < heads; h++) {
                const float* head = from + r * stride + h * dim;
                const float* const weight = h < model.heads ? layer.query_norm : layer.key_norm;
                if (weight) {
                    const vf factor = vset(inverse_rms(head, dim, model.epsilon));
                    for (int64_t d = 0; d < dim; d += kWidth) vstore(normed + d, vload(head + d) * factor * vload(weight + d));
                    head = normed;
                }
                for (int64_t d = 0; d < half; d++) {
                    turned[d] = head[d] * cosines[d] - head[d + half] * sines[d];
                    turned[d + half] = head[d + half] * cosines[d + half] + head[d] * sines[d + half];
                }
                for (int64_t d = 0; d < dim; d += kWidth) vstore(to + r * stride + h * dim + d, vload(turned + d));
            }
            for (int64_t d = heads * dim; d < stride; d += kWidth) {
                vstore(to + r * stride + d, vload(from + r * stride + d));
            }
        }
    });
}

// The norm of adapted rows, plain: [lora.count, hidden].
void norm_adapted(const PieLlama& model, const PieLora& lora, const float* weight, const float* x, float* normed) {
    for (int64_t i = 0; i < lora.count; i++) {
        const float* const row = x + lora.rows[i] * model.hidden;
        const vf factor = vset(inverse_rms(row, model.hidden, model.epsilon));
        float* const to = normed + i * model.hidden;
        for (int64_t k = 0; k < model.hidden; k += kWidth) vstore(to + k, vload(row + k) * factor * vload(weight + k));
    }
}

// `gated` of a pass with adapters: they belong between the products and the activation. `apart` is [rows, 2 * inner]; it is left
// with the activations in the first half of each row.
void gated_adapted(const PieLora& lora, const PieLlamaLayer& layer, int64_t place, const float* packed, int64_t rows,
                   const float* normed, float* apart, float* result, int threads) {
    const int64_t inner = layer.gate.out, hidden = layer.gate.in;
    multiply(packed, rows, layer.gate, apart, kFloat32, 2 * inner, threads);
    multiply(packed, rows, layer.up, apart + inner, kFloat32, 2 * inner, threads);
    const auto input = [&](int64_t i, int64_t) { return normed + i * hidden; };
    adapt(lora, place, hidden, inner, threads, input, [&](int64_t r) { return apart + r * 2 * inner; });
    adapt(lora, place + 1, hidden, inner, threads, input, [&](int64_t r) { return apart + r * 2 * inner + inner; });
    parallel_ranges(threads, rows, grain(inner), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) {
            float* const g = apart + r * 2 * inner;
            for (int64_t k = 0; k < inner; k += kWidth) {
                const vf value = vload(g + k);
                vstore(g + k, value / (vset(1.0f) + vexp(vzero() - value)) * vload(g + inner + k));
            }
        }
    });
    pack_rows(apart, 2 * inner, rows, inner, result, threads);
}

template <class T>
void run(const PieLlama& model, const PieLlamaPass& pass) {
    const int64_t rows = pass.rows, hidden = model.hidden, dim = model.head_dim;
    const int64_t attended = model.heads * dim, joined = attended + 2 * model.kv_heads * dim;
    const int64_t inner = model.layers[0].gate.out, widest = std::max({hidden, attended, inner});
    const int threads = pass.threads;
    thread_local Room values_room, packed_room, pool_room;
    float* const x = values_room.floats(rows * (hidden + joined));
    float* const projected = x + rows * hidden;
    float* const packed = packed_room.floats(2 * rows * widest);
    float* const packed_next = packed + rows * widest;
    T* const turned = reinterpret_cast<T*>(pool_room.floats(rows * (joined + attended)));
    T* const context = turned + rows * joined;
    const PieLora* const lora = pass.lora;
    thread_local Room adapted_room;
    const int64_t apart_size = rows * 2 * inner;
    float* const apart = lora ? adapted_room.floats(apart_size + lora->count * widest) : nullptr;
    float* const normed = lora ? apart + apart_size : nullptr;
    const auto normed_row = [&](int64_t i, int64_t) { return normed + i * hidden; };
    const auto residual = [&](int64_t r) { return x + r * hidden; };

    embed<T>(model, pass, x);
    for (int32_t index = 0; index < model.layer_count; index++) {
        const PieLlamaLayer& layer = model.layers[index];
        const auto row_of = [&](int64_t r) { return x + r * hidden; };
        norm(model, layer.attention_norm, rows, packed, threads, row_of);
        float* column = projected;
        for (int32_t i = 0; i < layer.input_count; i++) {
            multiply(packed, rows, layer.inputs[i], column, kFloat32, joined, threads);
            column += layer.inputs[i].out;
        }
        const int64_t place = 7 * index;
        if (lora) {
            norm_adapted(model, *lora, layer.attention_norm, x, normed);
            int64_t at = 0;
            for (int64_t i = 0; i < 3; i++) {
                const int64_t out = i == 0 ? attended : model.kv_heads * dim;
                adapt(*lora, place + i, hidden, out, threads, normed_row, [&](int64_t r) { return projected + r * joined + at; });
                at += out;
            }
        }
        rotate<T>(model, layer, pass, projected, turned);
        const PieAttend call{turned,  turned + attended, turned + attended + model.kv_heads * dim, context, joined, index,
                             layer.window, model.scale, threads};
        pass.attend(pass.plan, &call);
        pack_rows(context, attended, rows, attended, packed, threads);
        multiply_add(packed, rows, layer.output, x, hidden, threads);
        if (lora) {
            for (int64_t i = 0; i < lora->count; i++) {
                const T* const from = context + lora->rows[i] * attended;
                for (int64_t k = 0; k < attended; k += kWidth) vstore(normed + i * attended + k, vload(from + k));
            }
            const auto attended_row = [&](int64_t i, int64_t) { return normed + i * attended; };
            adapt(*lora, place + 3, attended, hidden, threads, attended_row, residual);
            norm_adapted(model, *lora, layer.mlp_norm, x, normed);
        }
        norm(model, layer.mlp_norm, rows, packed, threads, row_of);
        if (lora) {
            gated_adapted(*lora, layer, place + 4, packed, rows, normed, apart, packed_next, threads);
        } else {
            gated(packed, rows, layer.gate, layer.up, packed_next, threads);
        }
        multiply_add(packed_next, rows, layer.down, x, hidden, threads);
        if (lora) {
            const auto activated = [&](int64_t, int64_t r) { return apart + r * 2 * inner; };
            adapt(*lora, place + 6, inner, hidden, threads, activated, residual);
        }
    }
    for (int64_t i = 0; i < pass.state_count; i++) {
        const float* const row = x + pass.state_rows[i] * hidden;
        const vf factor = vset(inverse_rms(row, hidden, model.epsilon));
        for (int64_t k = 0; k < hidden; k += kWidth) {
            vstore(pass.states + i * hidden + k, vload(row + k) * factor * vload(model.norm + k));
        }
    }
    if (pass.wanted_count == 0) return;
    norm(model, model.norm, pass.wanted_count, packed, threads, [&](int64_t i) { return x + pass.wanted[i] * hidden; });
    multiply(packed, pass.wanted_count, model.head, pass.logits, kFloat32, model.vocab, threads);
}

}  // namespace
}  // namespace pie

// 0, or 1 when a token is outside of the vocabulary and nothing was computed.
PIE_API int32_t pie_llama_pass(const PieLlama* model, const PieLlamaPass* pass) {
    for (int64_t r = 0; r < pass->rows; r++) {
        if (pass->tokens[r] < 0 || pass->tokens[r] >= model->vocab) return 1;
    }
    if (pass->rows == 0) return 0;
    if (model->format == pie::kBfloat16) {
        pie::run<pie::bf16>(*model, *pass);
    } else {
        pie::run<float>(*model, *pass);
    }
    return 0;
}

// Outputs and inputs of weights must be multiples of these for a pass.
PIE_API int32_t pie_llama_output_multiple() { return pie::kPanel; }
PIE_API int32_t pie_llama_input_multiple() { return pie::kWidth; }
