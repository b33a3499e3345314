// Package remote is a client of other people's registries: it reads manifests and blobs, lists tags, and deletes.
//
// Start reading at [Client.Do], through which all requests go: it logs in as the registry asks (Basic, or Docker's token
// flow, which is GitLab's too) and turns every answer that is no success into an [*Error]. Any other error says that the
// registry did not answer. Whatever comes from a registry is bounded in size and checked against its digest.
//
// The specification: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
package remote
