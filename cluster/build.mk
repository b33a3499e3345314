# Upstream's programs for a cluster on one machine. Include it from the repository's root, with BIN set:
#
#	include cluster/build.mk
#
# Costs nothing when they are there already; about 7 minutes on 2 cores with a cold cache. Debian packages:
# libseccomp-dev, pkg-config and gcc to build, nftables to run.

.PHONY: cluster cluster-down

cluster:
	@cluster/build.sh $(BIN)/cluster

# Ends the cluster that tests share, see internal/cluster/clustertest.
cluster-down:
	@$(BIN)/slipway cluster down --delete --data $${SLIPWAY_TEST_CLUSTER:-$${TMPDIR:-/tmp}/slipway-test-cluster}
