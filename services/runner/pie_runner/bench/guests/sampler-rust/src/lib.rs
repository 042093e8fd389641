//! The sampler of the benchmark in Rust: `steps` tokens, drawn by the program (`custom`) or by the engine.

use inferlet::context::Context;
use inferlet::forward::{execute, Draw, Output, Pass, Probe};
use inferlet::generation::{ProbeKind, ProbeOutput, Sampler};
use inferlet::json::Value;
use inferlet::model::Model;
use inferlet::{Result, Waitable};

inferlet::main!(main);

async fn main(input: Value) -> Result<u32> {
    let context = Context::create(&Model::load("")?)?;
    let steps = input.get("steps").as_i64().unwrap_or(0);
    let custom = input.get("custom").as_bool().unwrap_or(false);
    let mut token = 1;
    for _ in 0..steps {
        let pass = if custom { looking(token) } else { drawing(token) };
        let output = execute(&context, &pass)?.wait().await?;
        token = if custom { drawn_here(output)? } else { output.tokens[0][0] };
    }
    Ok(token)
}

fn drawing(token: u32) -> Pass {
    let sampler = Sampler { temperature: 0.8, top_p: 0.9, ..Sampler::default() };
    Pass { tokens: vec![token], draws: vec![Draw { rows: vec![0], sampler, ..Draw::default() }], ..Pass::default() }
}

fn looking(token: u32) -> Pass {
    Pass { tokens: vec![token], probes: vec![Probe { row: 0, kind: ProbeKind::Resident }], ..Pass::default() }
}

fn drawn_here(output: Output) -> Result<u32> {
    for probe in output.probes {
        if let ProbeOutput::Resident(row) = probe {
            row.temperature(0.8)?;
            row.keep_top_p(0.9)?;
            return Ok(row.draw()?);
        }
    }
    Err("the pass answered without a row".into())
}
