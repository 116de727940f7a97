// SPDX-License-Identifier: GPL-2.0

//! The module's decisions and their tests. Tests are named `function__case`.

#[path = "../../src/policy/mod.rs"]
pub mod policy;

#[cfg(test)]
#[allow(non_snake_case)]
mod deadline;
#[cfg(test)]
#[allow(non_snake_case)]
mod delack;
#[cfg(test)]
#[allow(non_snake_case)]
mod extra_run;
#[cfg(test)]
#[allow(non_snake_case)]
mod jitter;
#[cfg(test)]
#[allow(non_snake_case)]
mod life;
#[cfg(test)]
#[allow(non_snake_case)]
mod rto;
#[cfg(test)]
#[allow(non_snake_case)]
mod tsq;
