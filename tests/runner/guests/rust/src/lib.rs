//! A tour of the world: the same in every language, with the same answer.

use std::time::Duration;

use inferlet::chat::{render, Conversation};
use inferlet::children::{launch, LaunchRequest};
use inferlet::context::Context;
use inferlet::forward::{execute, Draw, Pass, Probe};
use inferlet::filesystem as files;
use inferlet::generation::{DistributionSpec, Finish, ProbeKind, ProbeOutput, Run, Sampler, SentAs, Spec};
use inferlet::http;
use inferlet::json::{parse, Value};
use inferlet::log::{write, Level};
use inferlet::logits::Logits;
use inferlet::messaging;
use inferlet::model::Model;
use inferlet::session::{self, Message, OnFull};
use inferlet::{adapters, base64, clocks, join_all, random, runtime, scheduling, sleep, Error, Result, Waitable};

inferlet::main!(main);

/// A JSON array of anything.
macro_rules! list {
    ($($item:expr),* $(,)?) => { Value::Array(vec![$(Value::from($item)),*]) };
}

async fn main(input: Value) -> Result<Value> {
    let model = Model::load("")?;
    Ok(Value::object([
        ("runtime", surroundings(input.get("word").as_str().unwrap_or(""))?),
        ("session", talk().await?),
        ("model", tokens(&model)?),
        ("chat", turns(&model)?),
        ("context", contexts(&model).await?),
        ("streams", streams(&model).await?),
        ("sent", sent(&model).await?),
        ("closed", list![true, true, true, true]), // what somebody waits for cannot be closed here: it is borrowed
        ("pass", passes(&model).await?),
        ("sharing", sharing(&model).await?),
        ("outside", outside().await?),
        ("errors", failures(&model)?),
    ]))
}

fn surroundings(word: &str) -> Result<Value> {
    let before = clocks::monotonic_now();
    inferlet::println!("the word is {}", word);
    inferlet::eprintln!("oh");
    write(Level::Info, "on tour");
    let named = !runtime::version().is_empty() && !runtime::program().is_empty();
    let names = list![named, runtime::user(), runtime::tenant(), !runtime::instance_id().is_empty(), runtime::models()];
    let times = list![clocks::monotonic_now() >= before, clocks::wall_now() > 0, random::get_bytes(16).len()];
    Ok(list![names, times, parse(&runtime::arguments())?.get("word").clone()])
}

async fn talk() -> Result<Value> {
    session::send("ready", OnFull::Wait)?;
    session::send_bytes(&(0..=255).collect::<Vec<u8>>(), OnFull::Wait)?;
    let mut heard = Vec::new();
    for _ in 0..2 {
        heard.push(match session::receive().wait().await? {
            Message::Text(text) => Value::from(text),
            Message::Data(data) => Value::from(data.into_iter().map(u32::from).collect::<Vec<_>>()),
        });
    }
    sleep(Duration::from_millis(2)).await?;
    Ok(Value::Array(heard))
}

fn tokens(model: &Model) -> Result<Value> {
    let tokenizer = model.tokenizer();
    let ids = tokenizer.encode("h\u{e9}llo<|end|>")?;
    let stream = tokenizer.detokenizer();
    let pieces = list![stream.feed(&ids[..1])?, stream.feed(&ids[1..2])?, stream.finish()];
    let sizes = [model.max_context(), model.page_size(), model.vocab_size()].map(Value::from);
    let mut facts = vec![Value::from(model.name())];
    facts.extend(sizes);
    facts.extend([Value::from(model.stop_ids()), Value::from(model.eos_ids())]);
    let mut special: Vec<u32> = tokenizer.special_tokens().into_iter().map(|(id, _)| id).collect();
    special.sort();
    let texts = [tokenizer.decode(&ids, false)?, tokenizer.decode(&ids, true)?];
    Ok(list![facts, ids, texts[0].as_str(), texts[1].as_str(), special, pieces])
}

fn turns(model: &Model) -> Result<Value> {
    let whole = render(model, r#"[{"role": "user", "content": "a"}]"#, None, true)?;
    let talk = Conversation::new(model);
    let mut steps = vec![talk.message("system", "s")?, talk.message("user", "u")?, talk.cue()?];
    talk.reply(&[1, 2])?;
    steps.push(talk.seal()?);
    let fork = talk.fork();
    talk.rewind(1)?;
    Ok(list![whole, steps, talk.turns(), fork.turns()])
}

fn filled(model: &Model, tokens: std::ops::Range<u32>) -> Result<Context> {
    let context = Context::create(model)?;
    context.append(&tokens.collect::<Vec<_>>())?;
    Ok(context)
}

async fn contexts(model: &Model) -> Result<Value> {
    let context = filled(model, 0..40)?;
    let fork = context.fork()?;
    fork.truncate(5)?;
    context.flush().wait().await?;
    context.save("tour")?;
    let opened = Context::open(model, "tour")?.ok_or("it was saved")?;
    let prefetched = [Context::prefetch(model, "tour")?, Context::prefetch(model, "nothing")?];
    let mut found = vec![Value::from(opened.tokens().len()), prefetched[0].into(), prefetched[1].into()];
    let taken = Context::take(model, "tour")?.ok_or("it was saved")?;
    let gone = Context::open(model, "tour")?.is_none();
    found.extend([Value::from(taken.tokens().len()), gone.into(), Context::delete(model, "tour")?.into()]);
    context.pin("kept", 1_000_000_000)?.wait().await?;
    Context::unpin(model, "kept")?;
    taken.reserve(2)?;
    taken.commit(1)?.wait().await?;
    taken.release(1)?;
    let count = taken.pages();
    opened.drop_tokens(4, 20)?.wait().await?;
    context.set_adapters(&[])?;
    let pages = list![count.committed, count.working, count.room];
    Ok(list![fork.tokens(), found, pages, opened.length(), context.model().name()])
}

async fn streams(model: &Model) -> Result<Value> {
    let base = filled(model, 10..30)?;
    let one = |max_tokens: u32| {
        let fork = base.fork();
        async move {
            let spec = Spec { sampler: Sampler::greedy(), max_tokens: Some(max_tokens), ..Spec::default() };
            let fork = fork?;
            let run = Run::open(&fork, &spec)?;
            let mut tokens = Vec::new();
            loop {
                let step = run.wait().await?;
                tokens.extend(step.tokens);
                match step.finish {
                    Some(Finish::Length) => return Ok(list![tokens, "length"]),
                    Some(other) => return Err(format!("it ended by {:?}", other).into()),
                    None => (),
                }
            }
        }
    };
    let done: Vec<Result<Value>> = join_all([3, 5].map(one)).await;
    Ok(Value::Array(done.into_iter().collect::<Result<_>>()?))
}

async fn sent(model: &Model) -> Result<Value> {
    let context = filled(model, 10..30)?;
    let spec = Spec { sampler: Sampler::greedy(), max_tokens: Some(4), ..Spec::default() };
    let run = Run::open(&context, &spec)?;
    let rest = run.drain(Some(&SentAs::Field("piece".into())))?.wait().await?;
    match rest.finish {
        Finish::Length => Ok(list![rest.text, "length"]),
        other => Err(format!("it ended by {:?}", other).into()),
    }
}

async fn passes(model: &Model) -> Result<Value> {
    let context = filled(model, 1..4)?;
    let likely = ProbeKind::Distribution(DistributionSpec { temperature: 1.0, k: 2 });
    let kinds = [(1, likely), (0, ProbeKind::Logits), (1, ProbeKind::Resident), (0, ProbeKind::Logprobs(vec![7, 8]))];
    let pass = Pass {
        tokens: vec![4, 5],
        draws: vec![Draw { rows: vec![0, 1], sampler: Sampler::greedy(), ..Draw::default() }],
        probes: kinds.map(|(row, kind)| Probe { row, kind }).into(),
        ..Pass::default()
    };
    let output = execute(&context, &pass)?.wait().await?;
    let mut found = vec![Value::from(output.tokens[0].clone())];
    for probe in output.probes {
        match probe {
            ProbeOutput::Distribution(likely) => {
                found.push(likely.ids.into());
                found.push(likely.probabilities.into_iter().map(rounded).collect::<Vec<_>>().into());
            }
            ProbeOutput::Logits(text) => found.push(base64::decode(&text).ok_or("no base64")?.len().into()),
            ProbeOutput::Resident(row) => found.push(edited(row)?),
            ProbeOutput::Logprobs(logs) => found.push(logs.len().into()),
            other => return Err(format!("nobody asked for {:?}", other).into()),
        }
    }
    found.push(context.tokens().into());
    Ok(Value::Array(found))
}

/// A sampler of one's own: the most probable token is forbidden, and of two others one is made certain.
fn edited(row: Logits) -> Result<Value> {
    let first = row.argmax()?;
    let other = row.fork()?;
    other.bias(&[(first, f32::NEG_INFINITY)])?;
    let second = other.argmax()?;
    other.allow(&[17, 18])?;
    other.bias(&[(18, 1000.0)])?;
    Ok(list![first, second != first, other.sample(0.5)?, row.topk(1)?.ids, row.vocab_size()])
}

fn rounded(chance: f32) -> f64 {
    (chance as f64 * 1e4).round() / 1e4
}

async fn sharing(model: &Model) -> Result<Value> {
    let context = filled(model, 0..20)?;
    context.flush().wait().await?;
    scheduling::bid(&context, 2.0)?;
    scheduling::idle(&context, true)?;
    scheduling::suspend(&context)?.wait().await?;
    scheduling::idle(&context, false)?;
    let figures = [scheduling::rent(&context)?, scheduling::balance(&context)?.abs(), scheduling::latency(model)?];
    let mut found: Vec<Value> = figures.iter().map(|figure| Value::from(*figure >= 0.0)).collect();
    scheduling::when_pressure(model, scheduling::Level::High, false)?.wait().await?;
    let level = format!("{:?}", scheduling::current_pressure(model)?.level).to_lowercase();
    found.extend([Value::from(level), Value::from(adapters::available(model)?.len())]);
    context.flush().wait().await?;
    let restored: Vec<bool> = scheduling::receipts(&context).iter().map(|receipt| receipt.restored).collect();
    Ok(list![found, restored])
}

async fn outside() -> Result<Value> {
    files::make_folder("/scratch/a")?;
    files::write("/scratch/a/b", &base64::encode(&[0, 255, 7, 9]))?;
    files::append("/scratch/a/b", &base64::encode(&[1]))?;
    let read = base64::decode(&files::read("/scratch/a/b", 1, 100)?).ok_or("no base64")?;
    files::rename("/scratch/a/b", "/scratch/c")?;
    let entry = files::stat("/scratch/c")?;
    files::remove("/scratch/a", true)?;
    let left: Vec<String> = files::list("/scratch")?.into_iter().map(|entry| entry.name).collect();

    let news = messaging::subscribe("news")?;
    messaging::broadcast("news", "hear")?.wait().await?;
    let heard = news.wait().await?;
    messaging::push("jobs", "work")?.wait().await?;
    let job = messaging::pull("jobs")?.wait().await?;
    messaging::acknowledge(job.message)?;
    let read: Vec<u32> = read.into_iter().map(u32::from).collect();
    let kind = format!("{:?}", entry.kind).to_lowercase();
    let entry = list![entry.name, kind, entry.size];
    Ok(list![read, entry, left, heard, news.lost(), list![job.text, job.redeliveries]])
}

fn failures(model: &Model) -> Result<Value> {
    fn code<T>(result: std::result::Result<T, Error>) -> String {
        result.err().map_or("none".to_string(), |error| error.code)
    }
    let nothing = LaunchRequest { program: "nothing".to_string(), input: "{}".to_string(), near: None, detached: false };
    let request = http::Request {
        method: "GET".to_string(),
        url: "http://a.example".to_string(),
        headers: vec![],
        body: None,
        timeout: None,
        redirects: 0,
    };
    let context = Context::create(model)?;
    let refused = [code(http::send(&request)), code(http::begin(&request, None)), code(launch(&nothing))];
    let [get, post, child] = refused;
    Ok(list![code(Model::load("nothing")), get, post, child, code(context.append(&[1 << 30]))])
}
