//! What records of options say when a program does not: `Spec { max_tokens: Some(8), ..Default::default() }`.

use crate::forward::{AttentionMask, Draw, Pass};
use crate::generation::{Sampler, Spec};

impl Sampler {
    /// Always the most probable token.
    pub fn greedy() -> Sampler {
        Sampler { temperature: 0.0, ..Sampler::default() }
    }
}

/// From the whole distribution.
impl Default for Sampler {
    fn default() -> Sampler {
        Sampler {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            bias: Vec::new(),
            mask: None,
            min_tokens: 0,
        }
    }
}

/// Until the context is full, with text. `stop_ids` are none: a chat wants `model.stop_ids()`.
impl Default for Spec {
    fn default() -> Spec {
        Spec {
            sampler: Sampler::default(),
            seed: None,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            grammar: None,
            speculation: None,
            probes: Vec::new(),
            max_tokens: None,
            window: None,
            text: true,
        }
    }
}

impl Default for Draw {
    fn default() -> Draw {
        Draw { rows: Vec::new(), sampler: Sampler::default(), seed: None, start: None, stop_ids: Vec::new() }
    }
}

impl Default for Pass {
    fn default() -> Pass {
        Pass {
            tokens: Vec::new(),
            positions: Vec::new(),
            mask: AttentionMask::Causal,
            draws: Vec::new(),
            probes: Vec::new(),
        }
    }
}
