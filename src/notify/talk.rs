//! A conversation with a receiver that wants more than one request, each made of the answers before.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_client::{Gate, HttpClient};

use crate::call::{self, Call, CallError, Check};

/// One side of it.
pub struct Talk<'a> {
    /// How to reach the receiver.
    pub client: &'a HttpClient,
    /// Of each request.
    pub timeout: Duration,
}

impl Talk<'_> {
    /// Says something; the lease is asked before the first byte of what cannot be taken back.
    pub async fn say(
        &self,
        call: Call,
        lease: Option<Gate>,
        check: Check,
    ) -> Result<BTreeMap<String, String>, CallError> {
        call::send(self.client, call, self.timeout, lease, check).await
    }
}
