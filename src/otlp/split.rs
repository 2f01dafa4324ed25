//! A message cut by where each resource belongs.
//!
//! Differences must be added up by one peer, the owner of the shard that a resource's `job` and `instance` say. A message
//! is cut as bytes: what goes on to another peer is what came.

use promesh_model::shard::{shard_of, shard_of_names};
use promesh_model::{Labels, ShardId};
use serde_json::value::RawValue;

use crate::message::{Metrics, Resource};
use crate::protobuf::resources;
use crate::translate::identity;
use crate::{DecodeError, decode_json, decode_protobuf};

/// The shard whose owner adds a resource's differences up: that of its series, if it has `job` and `instance`.
pub(crate) fn shard_of_resource(resource: &Resource) -> ShardId {
    let (job, instance) = identity(resource);
    if !job.is_empty() && !instance.is_empty() {
        return shard_of(&Labels::from_pairs([("job", job), ("instance", instance)]));
    }
    let mut sorted: Vec<_> = resource.attributes.iter().collect();
    sorted.sort();
    let texts: Vec<&str> = sorted.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect();
    shard_of_names(&texts)
}

fn shard_of_one(metrics: &Metrics) -> ShardId {
    metrics.resources.first().map_or(ShardId(0), shard_of_resource)
}

/// A message in protobuf as one message a resource.
///
/// # Errors
/// As [`decode_protobuf`].
pub fn split_protobuf(bytes: &[u8]) -> Result<Vec<(ShardId, Vec<u8>)>, DecodeError> {
    let whole = resources(bytes)?.into_iter();
    whole.map(|message| Ok((shard_of_one(&decode_protobuf(message)?), message.to_vec()))).collect()
}

/// Messages in protobuf as one.
pub fn join_protobuf(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.concat()
}

#[derive(serde::Deserialize)]
struct Outer<'a> {
    #[serde(borrow, default, rename = "resourceMetrics")]
    resources: Vec<&'a RawValue>,
}

/// A message in JSON as one message a resource.
///
/// # Errors
/// As [`decode_json`].
pub fn split_json(bytes: &[u8]) -> Result<Vec<(ShardId, Vec<u8>)>, DecodeError> {
    let outer: Outer<'_> = serde_json::from_slice(bytes).map_err(|error| DecodeError::Json(error.to_string()))?;
    let one = |resource: &&RawValue| {
        let message = format!("{{\"resourceMetrics\":[{}]}}", resource.get()).into_bytes();
        Ok((shard_of_one(&decode_json(&message)?), message))
    };
    outer.resources.iter().map(one).collect()
}

/// Messages in JSON, each as [`split_json`] makes them, as one.
pub fn join_json(messages: &[Vec<u8>]) -> Vec<u8> {
    let inner = |message: &Vec<u8>| message[OPENS.len()..message.len() - CLOSES.len()].to_vec();
    let all: Vec<Vec<u8>> = messages.iter().map(inner).collect();
    [OPENS.as_bytes(), &all.join(&b','), CLOSES.as_bytes()].concat()
}

const OPENS: &str = "{\"resourceMetrics\":[";
const CLOSES: &str = "]}";

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(instance: &str) -> String {
        format!(
            "{{\"resource\": {{\"attributes\": [{{\"key\": \"service.name\", \"value\": {{\"stringValue\": \"shop\"}}}}, \
             {{\"key\": \"service.instance.id\", \"value\": {{\"stringValue\": \"{instance}\"}}}}]}}, \"scopeMetrics\": []}}"
        )
    }

    #[test]
    fn each_resource_goes_where_its_series_are_and_none_is_changed() {
        let whole = format!("{{\"resourceMetrics\": [{}, {}]}}", resource("a"), resource("b"));
        let parts = split_json(whole.as_bytes()).expect("JSON");
        let expected =
            ["a", "b"].map(|instance| shard_of(&Labels::from_pairs([("job", "shop"), ("instance", instance)])));
        assert_eq!(parts.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), expected);
        let messages: Vec<Vec<u8>> = parts.into_iter().map(|(_, message)| message).collect();
        assert_eq!(decode_json(&join_json(&messages)), decode_json(whole.as_bytes()));
        assert_eq!(join_json(&[]), b"{\"resourceMetrics\":[]}");
        assert!(split_json(b"[").is_err() && split_json(b"{}").expect("no resource is none").is_empty());
    }

    #[test]
    fn protobuf_is_cut_between_its_resources() {
        let field = |number: u8, inner: &[u8]| [&[number << 3 | 2, inner.len() as u8], inner].concat();
        let attribute = |name: &str, value: &str| {
            let value = field(2, &field(1, value.as_bytes()));
            field(1, &[field(1, name.as_bytes()), value].concat())
        };
        let resource = |instance: &str| {
            let attributes = [attribute("service.name", "shop"), attribute("service.instance.id", instance)].concat();
            field(1, &field(1, &attributes))
        };
        let whole = [resource("a"), resource("b")].concat();
        let parts = split_protobuf(&whole).expect("a message");
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].0, shard_of(&Labels::from_pairs([("job", "shop"), ("instance", "b")])));
        let messages: Vec<Vec<u8>> = parts.into_iter().map(|(_, message)| message).collect();
        assert_eq!(join_protobuf(&messages), whole);
        assert!(split_protobuf(&whole[..whole.len() - 1]).is_err());
    }
}
