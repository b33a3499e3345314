// Package buildkit runs BuildKit inside this process: it pulls images, keeps their layers and the build cache in one
// folder, and prepares the root filesystems that containers run on. No daemon and no socket is involved; BuildKit's own
// client talks to it over memory.
//
// Start reading at [Open]. A [Daemon] does two things: it is a store of images ([Daemon.Pull], [Daemon.Rootfs]), and it
// solves builds for package image ([Daemon.Solve]).
//
// # Who holds what
//
// BuildKit's cache forgets what nothing uses. What must not be forgotten is held by a lease in the metadata database of
// the folder, which outlives the process: a root filesystem made by [Daemon.Rootfs] keeps all layers below it until
// [Daemon.RemoveRootfs], whatever is pruned and whoever is killed. An [Image] is only held until [Image.Release].
//
// # Networks of builds
//
// RUN steps of a Dockerfile come from whoever can push a branch, so they never run on the host's network unless the build
// asks for it and was allowed to. They get a network namespace of their own on a bridge of the folder: the internet is
// reached through NAT, while every address of this machine (loopback, its interfaces, the bridge), link-local addresses
// such as cloud metadata services, and other builds are out of reach. See [Options.Network].
//
// # Logging
//
// BuildKit and containerd write to the standard logger of logrus, which the process sets up. At its default level they
// are chatty; what concerns a build is in its own log and its error anyway.
package buildkit
