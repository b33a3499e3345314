// Package oci is the engine that runs each step in a container of this machine: a root filesystem from its image, a
// detached runc container with Docker's default confinement, and a private network for the job.
//
// A container's first process is the shim, which needs no runner to go on. Everything else that the engine makes has a
// name that follows from the engine's folder, the sandbox's id and the step's name, so another process finds it: see
// names.go. What there is of a sandbox:
//
//	DIR/sandboxes/ID/           workspace, volumes and files of the sandbox; its presence means that there may be more
//	DIR/sandboxes/ID/steps/KEY  bundle, root filesystem (a mount), its image's volumes, network namespace (a mount) and
//	                            shim folder of a step
//	DIR/runc/ID.KEY             runc's own state
//	/slipway-oci-ENGINE-ID/KEY  the cgroup, in every hierarchy
//	swENGINEHASH, svENGINEHASH  bridge of the sandbox, and the host's end of a step's virtual cable
//	slipway-oci-ENGINE          the nftables table of the engine, with sets that have an element per sandbox
//
// Start reading at [Engine.Setup] and [Env.Start].
//
// # Networks
//
// Each sandbox has a bridge and a range of addresses that no route of the machine uses; each container has an address
// on it and finds the others by the names in its /etc/hosts. It reaches the internet through NAT. It reaches neither
// other sandboxes, nor any address of this machine, nor link-local addresses such as a cloud's metadata service. On a
// machine whose iptables rules drop forwarded packets by default, as dockerd's do, they must allow those of the bridges.
//
// A container's name servers are the machine's, without those on a loopback address, which it could not reach. If
// nothing is left, names outside of the job do not resolve unless [Options.DNS] or the step names servers.
package oci
