//! How the next token is chosen, as a request and the settings of its model say it.

use super::whole_number;
use crate::error::ApiError;
use cortex_api::{
    openai::SharedFields,
    worker::{Sampling, SamplingStep},
};
use cortex_models::ModelYaml;
use serde_json::Value;

/// The values of a request, of the model where it says nothing, or llama-server's.
pub(super) fn sampling(fields: &SharedFields, yaml: &ModelYaml) -> Result<Sampling, ApiError> {
    let neutral = Sampling::default();
    #[expect(clippy::cast_possible_truncation, reason = "settings like 0.7 need no more than a float's precision")]
    let number = |given: Option<f32>, key: &str, neutral: f32| {
        given.unwrap_or_else(|| yaml.number(key).map_or(neutral, |value| value as f32))
    };
    let whole = |given: Option<i32>, key: &str, neutral: i32| {
        given.unwrap_or_else(|| yaml.number(key).and_then(whole_number).unwrap_or(neutral))
    };
    let mirostat = whole(fields.mirostat, "mirostat", 0);
    let sampling = Sampling {
        temperature: number(fields.temperature, "temperature", 0.7),
        dynatemp_range: number(fields.dynatemp_range, "dynatemp_range", neutral.dynatemp_range),
        dynatemp_exponent: number(fields.dynatemp_exponent, "dynatemp_exponent", neutral.dynatemp_exponent),
        top_k: whole(fields.top_k, "top_k", 40).max(0),
        top_p: number(fields.top_p, "top_p", 0.95),
        min_p: number(fields.min_p, "min_p", 0.05),
        typical_p: number(fields.typical_p, "typ_p", neutral.typical_p),
        top_n_sigma: number(fields.top_n_sigma, "top_n_sigma", neutral.top_n_sigma),
        xtc_probability: number(fields.xtc_probability, "xtc_probability", neutral.xtc_probability),
        xtc_threshold: number(fields.xtc_threshold, "xtc_threshold", neutral.xtc_threshold),
        repeat_penalty: number(fields.repeat_penalty, "repeat_penalty", neutral.repeat_penalty),
        // -1 is the whole context, as in llama.cpp.
        repeat_last_n: u32::try_from(whole(fields.repeat_last_n, "repeat_last_n", 64)).unwrap_or(u32::MAX),
        presence_penalty: number(fields.presence_penalty, "presence_penalty", neutral.presence_penalty),
        frequency_penalty: number(fields.frequency_penalty, "frequency_penalty", neutral.frequency_penalty),
        dry_multiplier: number(fields.dry_multiplier, "dry_multiplier", neutral.dry_multiplier),
        dry_base: number(fields.dry_base, "dry_base", neutral.dry_base),
        dry_allowed_length: whole(fields.dry_allowed_length, "dry_allowed_length", neutral.dry_allowed_length),
        dry_penalty_last_n: whole(fields.dry_penalty_last_n, "dry_penalty_last_n", neutral.dry_penalty_last_n),
        dry_sequence_breakers: fields.dry_sequence_breakers.clone().unwrap_or(neutral.dry_sequence_breakers),
        mirostat: u8::try_from(mirostat)
            .map_err(|_| ApiError::field("mirostat", format!("mirostat is {mirostat}; it must be 0 (off), 1 or 2")))?,
        mirostat_tau: number(fields.mirostat_tau, "mirostat_tau", neutral.mirostat_tau),
        mirostat_eta: number(fields.mirostat_eta, "mirostat_eta", neutral.mirostat_eta),
        order: order(fields.samplers.as_deref())?,
        logit_bias: logit_bias(fields.logit_bias.as_ref())?,
        seed: seed(fields.seed.or_else(|| yaml.number("seed").and_then(wide_whole_number))),
    };
    if let Some(wrong) = fields.repeat_last_n.filter(|it| *it < -1) {
        let message = format!("repeat_last_n is {wrong}; it must be -1 (all), 0 (off) or more");
        return Err(ApiError::field("repeat_last_n", message));
    }
    // The worker checks too; here the field is named before a model is loaded for nothing.
    if let Some((field, message)) = sampling.out_of_range() {
        return Err(ApiError::field(field, message));
    }
    Ok(sampling)
}

/// The fields that a request names and that change nothing, as others of it stand, and why.
pub(super) fn without_effect(fields: &SharedFields) -> Vec<(&'static str, &'static str)> {
    let (above, below) =
        (|value: Option<f32>| value.is_some_and(|it| it > 0.0), |value: Option<f32>| value.is_some_and(|it| it < 1.0));
    let named = [
        ("top_k", SamplingStep::TopK, fields.top_k.is_some_and(|it| it > 0)),
        ("top_p", SamplingStep::TopP, below(fields.top_p)),
        ("min_p", SamplingStep::MinP, above(fields.min_p)),
        ("typical_p", SamplingStep::TypP, below(fields.typical_p)),
        ("top_n_sigma", SamplingStep::TopNSigma, above(fields.top_n_sigma)),
        ("xtc_probability", SamplingStep::Xtc, above(fields.xtc_probability)),
        ("dry_multiplier", SamplingStep::Dry, above(fields.dry_multiplier)),
    ];
    let has_mirostat = fields.mirostat.is_some_and(|it| it > 0) && fields.temperature.is_none_or(|it| it > 0.0);
    let order = fields.samplers.as_deref().and_then(|names| order(Some(names)).ok());
    let why = |step: SamplingStep| match &order {
        Some(order) if !order.contains(&step) => Some("has no effect: `samplers` does not have its step"),
        _ if has_mirostat && step != SamplingStep::Dry => Some("has no effect: mirostat is in its place"),
        _ => None,
    };
    named.into_iter().filter_map(|(field, step, is_on)| Some((field, why(step).filter(|_| is_on)?))).collect()
}

fn logit_bias(given: Option<&Value>) -> Result<Vec<(i32, f32)>, ApiError> {
    let wrong = |why: String| ApiError::field("logit_bias", format!("logit_bias {why}; it maps token ids to numbers"));
    let pairs: Vec<(Value, Value)> = match given {
        None | Some(Value::Null) => vec![],
        Some(Value::Object(map)) => {
            map.iter().map(|(token, bias)| (Value::String(token.clone()), bias.clone())).collect()
        }
        Some(Value::Array(pairs)) => pairs
            .iter()
            .map(|pair| match pair.as_array().map(Vec::as_slice) {
                Some([token, bias]) => Ok((token.clone(), bias.clone())),
                _ => Err(wrong(format!("has the entry {pair}"))),
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong(format!("is {other}"))),
    };
    let one = |(token, bias): (Value, Value)| {
        let id = match &token {
            Value::String(text) => text.parse().ok(),
            other => other.as_i64().and_then(|id| i32::try_from(id).ok()),
        };
        let id = id.ok_or_else(|| wrong(format!("has the token {token}")))?;
        #[expect(clippy::cast_possible_truncation, reason = "a bias needs no more than a float's precision")]
        let number = match &bias {
            // llama-server's way to take a token away.
            Value::Bool(false) => Some(f32::MIN),
            other => other.as_f64().map(|number| number as f32),
        };
        Ok((id, number.ok_or_else(|| wrong(format!("has the bias {bias}")))?))
    };
    pairs.into_iter().map(one).collect()
}

/// The steps of the sampling, by llama-server's names.
fn order(given: Option<&[String]>) -> Result<Vec<SamplingStep>, ApiError> {
    let Some(names) = given else { return Ok(SamplingStep::ALL.to_vec()) };
    let step = |name: &String| {
        // Its other names of the same steps.
        let name = match name.as_str() {
            "typical_p" => "typ_p",
            "temp" => "temperature",
            other => other,
        };
        serde_json::from_value(Value::String(name.to_owned())).map_err(|_| {
            let known: Vec<String> = SamplingStep::ALL
                .iter()
                .filter_map(|it| Some(serde_json::to_value(it).ok()?.as_str()?.to_owned()))
                .collect();
            ApiError::field("samplers", format!("samplers has `{name}`; possible are {}", known.join(", ")))
        })
    };
    names.iter().map(step).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a whole number of 53 bits is one of 64")]
fn wide_whole_number(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// Negative seeds are a fresh one every time.
fn seed(given: Option<i64>) -> Option<u32> {
    given.and_then(|seed| u64::try_from(seed).ok()).map(a_seed)
}

/// The engine's seed for a number: the number itself, or one that it is folded onto. The largest of 32 bits means to llama.cpp that it
/// shall take any (`LLAMA_DEFAULT_SEED`).
#[expect(clippy::cast_possible_truncation, reason = "the remainder has 32 bits")]
pub(super) fn a_seed(number: u64) -> u32 {
    (number % u64::from(u32::MAX)) as u32
}
