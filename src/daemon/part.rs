//! The part of this replica in an election, where there is one.

#[cfg(feature = "kubernetes")]
use super::crew::Candidate;
use super::crew::Crew;
use crate::config::Settings;

/// What this replica is in an election: nothing, where there is none.
pub(super) struct Part {
    #[cfg(feature = "kubernetes")]
    candidate: Option<Candidate>,
}

#[cfg(feature = "kubernetes")]
pub(super) use crate::kubernetes::lease::Standing;

#[cfg(not(feature = "kubernetes"))]
pub(super) enum Standing {}

#[cfg(feature = "kubernetes")]
impl Part {
    pub(super) fn of(crew: &mut Crew, settings: &Settings) -> Self {
        Self { candidate: crew.stand(settings) }
    }

    /// Waits until it is told to work, or not to.
    pub(super) async fn changed(&mut self) -> Standing {
        Candidate::changed(&mut self.candidate).await
    }

    /// Does as it is told.
    pub(super) async fn heed(&self, crew: &mut Crew, standing: &Standing, settings: &Settings) {
        if let Some(candidate) = &self.candidate {
            candidate.tell(standing, crew);
        }
        crew.heed(standing, settings).await;
    }

    /// Lets somebody else begin.
    pub(super) async fn end(self, crew: &Crew) {
        if let Some(candidate) = self.candidate {
            candidate.end(&crew.status).await;
        }
    }
}

#[cfg(not(feature = "kubernetes"))]
impl Part {
    pub(super) fn of(_: &mut Crew, _: &Settings) -> Self {
        Self {}
    }

    pub(super) async fn changed(&mut self) -> Standing {
        std::future::pending().await
    }

    #[expect(clippy::unused_async, reason = "with the feature there may be an election")]
    pub(super) async fn heed(&self, _: &mut Crew, standing: &Standing, _: &Settings) {
        match *standing {}
    }

    #[expect(clippy::unused_async, reason = "as above")]
    pub(super) async fn end(self, _: &Crew) {}
}
