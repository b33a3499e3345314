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
// # What is taken away when
//
// [Handler.Collect] frees what nobody has needed for a grace period, while everything else goes on. Each blob of a
// repository has the time at which it was last linked, mounted or asked for by somebody who may push; that is its lease
// until a manifest refers to it. A collection takes the row of a blob first and its file second, under the lock of the
// digest, which a push shares from the renaming of its file to the writing of its row. So a killed process leaves at most
// files without rows, which the first collections of the next one remove. [Handler.Check] compares rows and files.
//
// The specification: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md (referred to as "spec").
package registry
