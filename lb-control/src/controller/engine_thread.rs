//! The thread on which the engine lives: everything that touches the maps is done there, one job after
//! another, and the rest of the daemon never waits for the kernel.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

type Job<E> = Box<dyn FnOnce(&mut E) + Send>;

/// Sends jobs to the thread; the thread ends when the last sender is gone.
pub struct EngineThread<E>(mpsc::Sender<Job<E>>);

impl<E> Clone for EngineThread<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The thread ended: the engine panicked.
#[derive(Debug, thiserror::Error)]
#[error("the engine stopped unexpectedly; what it installed keeps forwarding")]
pub struct EngineGone;

impl<E: 'static> EngineThread<E> {
    /// Makes the engine on its thread; `make` may return something to tell of what it found.
    pub async fn start<T: Send + 'static>(
        make: impl FnOnce() -> anyhow::Result<(E, T)> + Send + 'static,
    ) -> anyhow::Result<(Self, T)> {
        let (jobs, queue) = mpsc::channel::<Job<E>>();
        let (made, found) = oneshot::channel();
        thread::Builder::new().name("engine".into()).spawn(move || {
            let mut engine = match make() {
                Ok((engine, told)) => {
                    let _ = made.send(Ok(told));
                    engine
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                    return;
                }
            };
            for job in queue {
                job(&mut engine);
            }
        })?;
        Ok((Self(jobs), found.await.map_err(|_| EngineGone)??))
    }

    /// Has `job` done on the thread.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut E) -> T + Send + 'static,
    ) -> Result<T, EngineGone> {
        let (sender, result) = oneshot::channel();
        let job = Box::new(move |engine: &mut E| {
            let _ = sender.send(job(engine));
        });
        self.0.send(job).map_err(|_| EngineGone)?;
        result.await.map_err(|_| EngineGone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_and_a_panic_is_told() {
        let (engine, told) = EngineThread::start(|| Ok((Vec::new(), "made"))).await.expect("it is made");
        assert_eq!(told, "made");
        for number in 0..3 {
            engine.call(move |numbers: &mut Vec<u32>| numbers.push(number)).await.expect("it runs");
        }
        assert_eq!(engine.call(|numbers| numbers.clone()).await.expect("it runs"), [0, 1, 2]);
        let panicked = engine.call(|_| std::panic::resume_unwind(Box::new("defect"))).await;
        assert!(matches!(panicked, Err(EngineGone)));
        assert!(engine.call(|numbers| numbers.len()).await.is_err());
    }
}
