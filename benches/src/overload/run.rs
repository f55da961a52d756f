//! The rounds of each attack.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    attack::Attack,
    client::{Aggressor, Statuses, Victim},
    report::{Outcome, Round},
    scene::{self, Backend},
};
use crate::{
    gateway::{Gateway, GatewayError, Home},
    latency::percentile,
};

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which attacks, in order.
    pub attacks: Vec<Attack>,
    /// How often each is measured; at least 1.
    pub rounds: usize,
    /// How long one half of a round is, in whole seconds.
    pub time: Duration,
    /// The victim's messages a second; at least 1.
    pub rate: u32,
    /// How long the model takes.
    pub model: Duration,
    /// The gateway's binary.
    pub gateway: PathBuf,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway does not run.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The system refuses a port, a directory or a thread.
    #[error("cannot prepare the measurement")]
    Prepare(#[from] io::Error),
}

/// Measures each attack against a gateway of its own, and hands out what came of it as soon as it is known. Blocks until all are done.
///
/// # Errors
/// It could not be prepared, or the gateway died.
pub fn run(options: &Options, said: impl FnMut(&Outcome)) -> Result<(), Error> {
    let (model, application) = (Backend::model(options.model)?, Backend::application()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure_all(options, &model, &application, said))
}

async fn measure_all(options: &Options, model: &Backend, application: &Backend, mut said: impl FnMut(&Outcome)) -> Result<(), Error> {
    for attack in &options.attacks {
        let home = Home::new(&scene::config(*attack, options.rate, model, application), &[("flow.lua", &scene::flow())])?;
        let mut gateway = Gateway::start(&options.gateway, &home).await?;
        let public = gateway.public;
        let outcome = tokio::select! {
            outcome = measure(*attack, options, public) => outcome?,
            error = gateway.died() => return Err(error.into()),
        };
        gateway.kill().await?; // waited for, so that it is gone before its directory
        said(&outcome);
    }
    Ok(())
}

async fn measure(attack: Attack, options: &Options, gateway: SocketAddr) -> Result<Outcome, Error> {
    let victim = Victim::new(gateway);
    victim.measure(options.rate, Duration::from_secs(1)).await;
    let mut outcome =
        Outcome { attack, rounds: Vec::with_capacity(options.rounds), failed: 0, statuses: Statuses::new(), attacked: Duration::ZERO };
    for number in 0..options.rounds {
        let mut halves = [[Duration::ZERO; 2]; 2];
        // Every other round begins with the attack.
        for attacked in [number % 2 == 1, number % 2 == 0] {
            let begun = Instant::now();
            let aggressor = if attacked { Some(Aggressor::start(attack, options.rate, gateway)?) } else { None };
            let (latencies, failed) = victim.measure(options.rate, options.time).await;
            halves[usize::from(attacked)] = [percentile(&latencies, 50), percentile(&latencies, 99)];
            outcome.failed += failed;
            if let Some(aggressor) = aggressor {
                outcome.attacked += begun.elapsed();
                for (status, count) in aggressor.end() {
                    *outcome.statuses.entry(status).or_default() += count;
                }
            }
        }
        outcome.rounds.push(Round { alone: halves[0], beside: halves[1] });
    }
    Ok(outcome)
}
