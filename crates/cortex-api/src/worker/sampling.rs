//! How the next token is chosen.

use serde::{Deserialize, Serialize};

/// How the next token is chosen. Each value that equals its neutral value switches its step off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most likely token; larger is more random. Range 0 to 5.
    pub temperature: f32,
    /// How far the temperature moves with the entropy of the choice, up and down; 0 is off.
    pub dynatemp_range: f32,
    /// How the entropy maps to that range; 1 is linearly.
    pub dynatemp_exponent: f32,
    /// Keep the k most likely tokens; 0 is off.
    pub top_k: i32,
    /// Keep the most likely tokens that together have this probability; 1 is off.
    pub top_p: f32,
    /// Keep tokens at least this fraction as likely as the best; 0 is off.
    pub min_p: f32,
    /// Locally typical sampling; 1 is off.
    pub typical_p: f32,
    /// Keep tokens whose logit is within so many standard deviations of the highest; 0 and less is off.
    pub top_n_sigma: f32,
    /// How often the most likely tokens are left out when others are likely enough too; 0 is off.
    pub xtc_probability: f32,
    /// How likely that is; above 0.5 is off.
    pub xtc_threshold: f32,
    /// Divides the logit of tokens seen lately; 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens back the penalties look.
    pub repeat_last_n: u32,
    /// Subtracted once from a token seen lately; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once per occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Penalty for what would go on with a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// It grows with this to the power of the repetition's length.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: i32,
    /// How many tokens back it looks; -1 is the whole context.
    pub dry_penalty_last_n: i32,
    /// Texts at which repetitions end.
    pub dry_sequence_breakers: Vec<String>,
    /// 1 or 2: keep the surprise of each token near `mirostat_tau`, in place of the steps that cut unlikely tokens off; 0 is off.
    pub mirostat: u8,
    /// The surprise that is aimed at, in bits.
    pub mirostat_tau: f32,
    /// How fast it gets there.
    pub mirostat_eta: f32,
    /// The steps in their order; one that is not there is off.
    pub order: Vec<SamplingStep>,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(i32, f32)>,
    /// Where the random numbers start; `None` is a fresh one.
    pub seed: Option<u32>,
}

/// A step on the way from the logits to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "llama-server's names of the steps; the fields of Sampling say what they do")]
pub enum SamplingStep {
    Penalties,
    Dry,
    TopNSigma,
    TopK,
    TypP,
    TopP,
    MinP,
    Xtc,
    Temperature,
}

impl SamplingStep {
    /// llama.cpp's usual order.
    pub const ALL: [Self; 9] = [
        Self::Penalties,
        Self::Dry,
        Self::TopNSigma,
        Self::TopK,
        Self::TypP,
        Self::TopP,
        Self::MinP,
        Self::Xtc,
        Self::Temperature,
    ];
}

impl Default for Sampling {
    /// The most likely token, and no step.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            order: SamplingStep::ALL.to_vec(),
            logit_bias: vec![],
            seed: None,
        }
    }
}

impl Sampling {
    /// More biases, or breakers, are a mistake.
    pub const MOST_BIASES: usize = 4096;

    /// The first value that is outside of its range: the name of its field, and a sentence that begins with it.
    pub fn out_of_range(&self) -> Option<(&'static str, String)> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 5.0),
            ("dynatemp_range", self.dynatemp_range, 0.0, 5.0),
            ("dynatemp_exponent", self.dynatemp_exponent, 0.01, 10.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("top_n_sigma", self.top_n_sigma, -1.0, 100.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 10.0),
            ("presence_penalty", self.presence_penalty, -10.0, 10.0),
            ("frequency_penalty", self.frequency_penalty, -10.0, 10.0),
            ("dry_multiplier", self.dry_multiplier, 0.0, 100.0),
            ("dry_base", self.dry_base, 1.0, 10.0),
            ("mirostat_tau", self.mirostat_tau, 0.0, 100.0),
            ("mirostat_eta", self.mirostat_eta, 0.0, 1.0),
        ];
        for (field, value, low, high) in ranges {
            // A NaN is in no range.
            if !(low..=high).contains(&value) {
                return Some((field, format!("{field} is {value}; it must be between {low} and {high}")));
            }
        }
        let wrong = |field, value: &dyn std::fmt::Display, must: &str| {
            Some((field, format!("{field} is {value}; it must be {must}")))
        };
        if self.top_k < 0 {
            return wrong("top_k", &self.top_k, "0 (off) or more");
        }
        if self.mirostat > 2 {
            return wrong("mirostat", &self.mirostat, "0 (off), 1 or 2");
        }
        if self.dry_allowed_length < 0 || self.dry_penalty_last_n < -1 {
            let message = "dry_allowed_length must be 0 or more, and dry_penalty_last_n -1 or more".to_owned();
            return Some(("dry_allowed_length", message));
        }
        // The engine takes them as C strings.
        if self.dry_sequence_breakers.len() > Self::MOST_BIASES
            || self.dry_sequence_breakers.iter().any(|breaker| breaker.contains('\0') || breaker.len() > 1024)
        {
            return wrong("dry_sequence_breakers", &"too long", "a list of short texts without zero bytes");
        }
        if self.logit_bias.len() > Self::MOST_BIASES {
            return wrong("logit_bias", &"too long", &format!("at most {} tokens", Self::MOST_BIASES));
        }
        let wrong_bias = self.logit_bias.iter().find(|(_, bias)| !bias.is_finite());
        wrong_bias
            .map(|(token, bias)| ("logit_bias", format!("logit_bias of token {token} is {bias}; it must be a number")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_their_range_are_named() {
        let neutral = Sampling::default;
        assert_eq!(neutral().out_of_range(), None);
        for (sampling, name) in [
            (Sampling { temperature: f32::NAN, ..neutral() }, "temperature"),
            (Sampling { temperature: -0.1, ..neutral() }, "temperature"),
            (Sampling { top_p: 1.5, ..neutral() }, "top_p"),
            (Sampling { min_p: f32::INFINITY, ..neutral() }, "min_p"),
            (Sampling { repeat_penalty: 0.0, ..neutral() }, "repeat_penalty"),
            (Sampling { top_k: -1, ..neutral() }, "top_k"),
            (Sampling { mirostat: 3, ..neutral() }, "mirostat"),
            (Sampling { dry_allowed_length: -1, ..neutral() }, "dry_allowed_length"),
            (Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], ..neutral() }, "logit_bias"),
            (Sampling { logit_bias: vec![(1, 0.0); 5000], ..neutral() }, "logit_bias"),
        ] {
            let (field, message) = sampling.out_of_range().expect(name);
            assert_eq!(field, name);
            assert!(message.starts_with(name), "{message}");
        }
    }
}
