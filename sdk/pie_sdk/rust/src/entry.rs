//! The component's `run`, called by the host once.

use std::error::Error;
use std::future::Future;
use std::panic;

use crate::abi::Arena;
use crate::json::{self, Value};
use crate::{block_on, log, runtime, types};

/// Runs `main` with the input at `at`; where its result lies. What it allocates stays: the instance ends with it.
#[doc(hidden)]
pub unsafe fn run<F, R>(at: *mut u8, length: usize, main: impl FnOnce(Value) -> F) -> *mut u8
where
    F: Future<Output = Result<R, Box<dyn Error>>>,
    R: Into<Value>,
{
    panic::set_hook(Box::new(|info| log::stderr(&format!("{}\n", info))));
    let input = match length {
        0 => String::new(),
        _ => String::from_raw_parts(at, length, length),
    };
    let result: Result<String, String> = answer(&input, main);
    let mut arena = Arena::default();
    let area = arena.store(&result);
    std::mem::forget(arena);
    std::mem::forget(result);
    area
}

fn answer<F, R>(input: &str, main: impl FnOnce(Value) -> F) -> Result<String, String>
where
    F: Future<Output = Result<R, Box<dyn Error>>>,
    R: Into<Value>,
{
    let value = match input {
        "" => Value::Null,
        text => json::parse(text).map_err(|error| format!("The input is not JSON: {}", error))?,
    };
    match block_on(main(value)) {
        Ok(result) => Ok(result.into().to_string()),
        Err(error) => {
            if let Some(cause) = error.downcast_ref::<types::Error>() {
                runtime::set_cause(&cause.code);
            }
            Err(error.to_string())
        }
    }
}
