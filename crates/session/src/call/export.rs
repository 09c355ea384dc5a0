//! Exporters and policies that a client decides on while the build runs.

use crate::{
    Result, Session,
    connection::{MAX_MESSAGE, origin},
};
use cooper_wire::{
    exporter::{ExporterRequest, FinalizeExportRequest, FindExportersRequest, exporter_client::ExporterClient},
    policysession::{CheckPolicyRequest, CheckPolicyResponse, policy_verifier_client::PolicyVerifierClient},
};
use std::collections::BTreeMap;
use tonic::{Code, Status};

impl Session {
    /// The exporters that the client wants run on a result with this metadata and these refs; none when it has no say.
    pub async fn find_exporters(
        &self,
        metadata: BTreeMap<String, Vec<u8>>,
        refs: Vec<String>,
    ) -> Result<Vec<ExporterRequest>> {
        let mut client = ExporterClient::with_origin(self.channel(), origin()).max_encoding_message_size(MAX_MESSAGE);
        match client.find_exporters(FindExportersRequest { metadata, refs }).await {
            Ok(response) => Ok(response.into_inner().exporters),
            Err(status) if has_no_say(&status) => Ok(Vec::new()),
            Err(status) => Err(status.into()),
        }
    }

    /// Tells the client what its exporters made.
    pub async fn finalize_export(&self, exporter_response: BTreeMap<String, String>) -> Result<()> {
        let mut client = ExporterClient::with_origin(self.channel(), origin()).max_encoding_message_size(MAX_MESSAGE);
        match client.finalize_export(FinalizeExportRequest { exporter_response }).await {
            Ok(_) => Ok(()),
            Err(status) if has_no_say(&status) => Ok(()),
            Err(status) => Err(status.into()),
        }
    }

    /// Asks the client's policy about a source.
    pub async fn check_policy(&self, request: CheckPolicyRequest) -> Result<CheckPolicyResponse> {
        let mut client = PolicyVerifierClient::with_origin(self.channel(), origin())
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE);
        Ok(client.check_policy(request).await?.into_inner())
    }
}

fn has_no_say(status: &Status) -> bool {
    matches!(status.code(), Code::Unimplemented | Code::Unavailable)
}
