// Package image builds images from Dockerfiles and pushes them, without a Docker daemon.
//
// Start reading at [Builder.Build]. A [Request] is an image step with everything resolved; the work is done by the
// BuildKit of package buildkit, in-process. What a build reads is in the workspace of its job, which the steps before
// may have filled with anything: it is read through [os.Root], so that no symbolic link and no ".." leads out of it.
//
// An image is made from a folder of files, without any base, by a Dockerfile of two lines ("FROM scratch", "COPY . /"):
// there is no other call for that.
package image
