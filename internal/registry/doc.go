// Package registry serves container images by the OCI distribution specification, version 1.1.
//
// Manifests, tags and the question which repository has which blob are rows in the store; only the bytes of blobs are
// files. So a tag can be deleted without its siblings, has a history, and what a repository needs can be counted in the
// very transaction that stores a manifest. Start reading at [Handler.ServeHTTP], which routes and authorizes a request,
// then at putManifest, which makes a push visible.
//
// # What is stored when
//
// An upload is a file in uploads/ that grows with its requests. Closing it checks the digest, syncs the file, renames
// it to blobs/<algorithm>/<two digits>/<hex>, syncs that folder, and only then links the blob to its repository in the
// database. A manifest is accepted when everything it refers to is linked. Whenever the process dies, a blob that the
// database knows is whole on disk; at worst a file remains that no row names.
//
// # Clean-up that is to come
//
// Nothing here deletes the bytes of a blob. Whatever does must know that [store.BlobLinks] LinkBlob and MountBlob touch
// the row of a blob in their transaction, and that an upload replaces the file of a blob that is there already: so a
// collector that takes the row first and the file second, under the lock of the digest, cannot take what a push is
// about to rely on.
//
// The specification: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md (referred to as "spec").
package registry
