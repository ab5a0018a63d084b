//! llama.cpp's samplers, in the order that a request says. Only the safe layer of the binding is called.

use crate::{llama::Token, sampling::has_penalties, vocabulary::Vocabulary};
use cortex_api::worker::{Sampling, SamplingStep};
use llama_cpp_2::{
    sampling::LlamaSampler,
    token::{LlamaToken, data::LlamaTokenData, data_array::LlamaTokenDataArray, logit_bias::LlamaLogitBias},
};

/// llama.cpp's samplers in a row.
pub(crate) struct Chain(LlamaSampler);

impl Chain {
    /// Chooses among some tokens with their logits.
    pub(crate) fn choose_of(&mut self, possible: impl Iterator<Item = (Token, f32)>) -> Option<Token> {
        let data = possible.map(|(token, logit)| LlamaTokenData::new(LlamaToken(token), logit, 0.0));
        let mut candidates = LlamaTokenDataArray::from_iter(data, false);
        if candidates.data.is_empty() {
            return None;
        }
        candidates.apply_sampler(&mut self.0);
        let token = candidates.selected_token()?;
        self.0.accept(token);
        Some(token.0)
    }
}

impl Vocabulary<'_> {
    /// Builds the chain for validated values.
    pub(crate) fn chain(&self, sampling: &Sampling, seed: u32, history: &[Token]) -> Chain {
        let mut steps = Vec::new();
        let biases: Vec<LlamaLogitBias> = sampling
            .logit_bias
            .iter()
            .filter(|(token, _)| (0..self.size).contains(token))
            .map(|&(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
            .collect();
        if !biases.is_empty() {
            steps.push(LlamaSampler::logit_bias(self.size, &biases));
        }
        let is_greedy = sampling.temperature <= 0.0;
        let mirostat = sampling.mirostat > 0 && !is_greedy;
        for step in &sampling.order {
            match step {
                SamplingStep::Penalties if has_penalties(sampling) => steps.push(LlamaSampler::penalties(
                    self.size,
                    i32::try_from(sampling.repeat_last_n).unwrap_or(i32::MAX),
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )),
                SamplingStep::Dry if sampling.dry_multiplier > 0.0 => steps.push(LlamaSampler::dry(
                    self.model,
                    sampling.dry_multiplier,
                    sampling.dry_base,
                    sampling.dry_allowed_length,
                    sampling.dry_penalty_last_n,
                    &sampling.dry_sequence_breakers,
                )),
                SamplingStep::Temperature if mirostat || !is_greedy => {
                    steps.push(if sampling.dynatemp_range > 0.0 {
                        LlamaSampler::temp_ext(
                            sampling.temperature,
                            sampling.dynatemp_range,
                            sampling.dynatemp_exponent,
                        )
                    } else {
                        LlamaSampler::temp(sampling.temperature)
                    });
                }
                // Mirostat is in place of the others; greedy needs none.
                _ if mirostat || is_greedy => {}
                SamplingStep::TopNSigma if sampling.top_n_sigma > 0.0 => {
                    steps.push(LlamaSampler::top_n_sigma(sampling.top_n_sigma));
                }
                SamplingStep::TopK if sampling.top_k > 0 => steps.push(LlamaSampler::top_k(sampling.top_k)),
                SamplingStep::TypP if sampling.typical_p < 1.0 => {
                    steps.push(LlamaSampler::typical(sampling.typical_p, 1));
                }
                SamplingStep::TopP if sampling.top_p < 1.0 => steps.push(LlamaSampler::top_p(sampling.top_p, 1)),
                SamplingStep::MinP if sampling.min_p > 0.0 => steps.push(LlamaSampler::min_p(sampling.min_p, 1)),
                SamplingStep::Xtc if sampling.xtc_probability > 0.0 => {
                    steps.push(LlamaSampler::xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed));
                }
                _ => {}
            }
        }
        steps.push(match sampling.mirostat {
            _ if is_greedy => LlamaSampler::greedy(),
            1 => LlamaSampler::mirostat(self.size, seed, sampling.mirostat_tau, sampling.mirostat_eta, 100),
            2 => LlamaSampler::mirostat_v2(seed, sampling.mirostat_tau, sampling.mirostat_eta),
            _ => LlamaSampler::dist(seed),
        });
        let mut chain = LlamaSampler::chain(steps, true);
        let window = usize::try_from(sampling.repeat_last_n).unwrap_or(usize::MAX);
        let window = if sampling.dry_multiplier > 0.0 { usize::MAX } else { window };
        let history = &history[history.len().saturating_sub(window)..];
        // What stands for images is no token that could be written again.
        chain.accept_many(history.iter().filter(|&&token| token >= 0).map(|&token| LlamaToken(token)));
        Chain(chain)
    }
}
