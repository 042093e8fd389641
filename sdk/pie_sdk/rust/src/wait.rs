//! Awaiting the host: a reactor of one thread whose only way to sleep is `futures.wait-any`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::types::Error;
use crate::{clocks, futures};

thread_local! {
    /// Who waits for which waitable: by its id, and a number of the `Wait`, as several may wait for one.
    static WAITING: RefCell<BTreeMap<(u32, u64), Waker>> = RefCell::new(BTreeMap::new());
    static WAITS: Cell<u64> = Cell::new(0);
}

/// A resource of the host that will have something to get. Implemented for all that have an `id` and a getter.
pub trait Waitable {
    type Output;

    /// For `futures::wait_any`.
    fn id(&self) -> u32;

    /// What is there, if anything.
    fn poll(&self) -> Option<Self::Output>;

    /// Resolves to what it gets next.
    fn wait(&self) -> Wait<'_, Self>
    where
        Self: Sized,
    {
        Wait { of: self, key: None }
    }

    /// Parks the whole program until it is there. In async code, `wait().await`.
    fn block(&self) -> Self::Output {
        loop {
            match self.poll() {
                Some(output) => return output,
                None => futures::wait_any(&[self.id()]),
            };
        }
    }
}

/// The future of [`Waitable::wait`].
pub struct Wait<'a, W: Waitable> {
    of: &'a W,
    /// Where its waker is, once it has waited.
    key: Option<(u32, u64)>,
}

impl<'a, W: Waitable> Future for Wait<'a, W> {
    type Output = W::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<W::Output> {
        match self.of.poll() {
            Some(output) => Poll::Ready(output),
            None => {
                let of = self.of;
                let key = *self.key.get_or_insert_with(|| (of.id(), WAITS.with(|waits| waits.replace(waits.get() + 1))));
                WAITING.with(|waiting| waiting.borrow_mut().insert(key, context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl<'a, W: Waitable> Drop for Wait<'a, W> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            WAITING.with(|waiting| waiting.borrow_mut().remove(&key));
        }
    }
}

/// Whether a future has been woken since it was last polled.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a future to its end. The program's `main` already runs in it.
///
/// # Panics
/// When the future waits, but for nothing that the host could give.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = Box::pin(future);
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        while woken.0.swap(false, Ordering::Relaxed) {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
        }
        let mut ids: Vec<u32> = WAITING.with(|waiting| waiting.borrow().keys().map(|key| key.0).collect());
        ids.dedup();
        assert!(!ids.is_empty(), "deadlock: the program waits, and nothing is asked of the host");
        for id in futures::wait_any(&ids) {
            let keys: Vec<(u32, u64)> =
                WAITING.with(|waiting| waiting.borrow().range((id, 0)..=(id, u64::MAX)).map(|(key, _)| *key).collect());
            for key in keys {
                if let Some(waker) = WAITING.with(|waiting| waiting.borrow_mut().remove(&key)) {
                    waker.wake();
                }
            }
        }
    }
}

/// Runs futures side by side; their outputs in order.
pub fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> JoinAll<F> {
    let branches: Vec<Branch<F>> = futures.into_iter().map(|future| Branch::Running(Box::pin(future))).collect();
    JoinAll { branches }
}

/// The future of [`join_all`].
pub struct JoinAll<F: Future> {
    branches: Vec<Branch<F>>,
}

enum Branch<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
}

/// The futures are boxed and outputs are only moved, so nothing here is pinned in place.
impl<F: Future> Unpin for JoinAll<F> {}

impl<F: Future> Future for JoinAll<F> {
    type Output = Vec<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<F::Output>> {
        let mut pending = false;
        for branch in self.branches.iter_mut() {
            if let Branch::Running(future) = branch {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *branch = Branch::Done(output),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return Poll::Pending;
        }
        let outputs = self.branches.drain(..).filter_map(|branch| match branch {
            Branch::Done(output) => Some(output),
            Branch::Running(_) => None,
        });
        Poll::Ready(outputs.collect())
    }
}

/// Waits at least so long.
pub async fn sleep(duration: Duration) -> Result<(), Error> {
    clocks::sleep(duration.as_nanos().min(u64::MAX as u128) as u64).wait().await
}
