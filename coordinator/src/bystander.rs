//! The services of a coordinator that stands by: whatever is asked, the answer is who leads.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    marker::PhantomData,
    task::{Context, Poll},
};

use proto::addresses::name_leader;
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use crate::refusal::Refusal;

/// In the place of the service `S`.
pub struct Bystander<S> {
    leader: watch::Receiver<Option<String>>,
    instead_of: PhantomData<fn() -> S>,
}

impl<S> Bystander<S> {
    pub fn new(leader: watch::Receiver<Option<String>>) -> Self {
        Self { leader, instead_of: PhantomData }
    }
}

impl<S> Clone for Bystander<S> {
    fn clone(&self) -> Self {
        Self::new(self.leader.clone())
    }
}

impl<S: NamedService> NamedService for Bystander<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Bystander<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let leader = self.leader.borrow().clone();
        let mut status = Status::from(Refusal::standby(leader.as_deref()));
        if let Some(leader) = leader {
            name_leader(&mut status, &leader);
        }
        ready(Ok(status.into_http()))
    }
}
