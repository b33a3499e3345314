# A real Gitea for the tests: bin/gitea, and bin/gitea.static, a link to its templates in Go's module cache.
# Needs a C compiler (Debian: gcc libc6-dev) for SQLite. From cold caches it takes minutes, then nothing.

GITEA_VERSION := 1.26.0

bin/gitea: gitea/go.mod gitea/go.sum gitea/build.mk
	@echo "building Gitea $(GITEA_VERSION) from source; the first time this takes a few minutes"
	@mkdir -p bin
	cd gitea && CGO_ENABLED=1 go build -trimpath -tags 'sqlite sqlite_unlock_notify' \
		-ldflags "-s -w -X main.Version=$(GITEA_VERSION) -X 'main.Tags=sqlite sqlite_unlock_notify'" \
		-o ../bin/gitea code.gitea.io/gitea
	ln -sfn "$$(cd gitea && go list -m -f '{{.Dir}}' code.gitea.io/gitea)" bin/gitea.static
