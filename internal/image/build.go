package image

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"slipway/internal/buildkit"
)

// Builder builds images. Its methods may be called concurrently.
type Builder struct {
	daemon *buildkit.Daemon
}

// NewBuilder returns a Builder that works with daemon, which must stay open.
func NewBuilder(daemon *buildkit.Daemon) *Builder { return &Builder{daemon} }

// Build builds the image of req and pushes all its tags. The log goes to out line by line as it comes; out is not
// called concurrently, nor after Build returned. When ctx is done the build is stopped: no process of it runs any more
// when Build returns. The error is an [*Error] unless ctx is done.
func (b *Builder) Build(ctx context.Context, req Request, out io.Writer) (Result, error) {
	hide := newHider(req.Secrets)
	result, err := b.build(ctx, &req, newProgress(out, hide))
	if err != nil && ctx.Err() != nil {
		return Result{}, fmt.Errorf("build the image: %w", context.Cause(ctx))
	}
	if err != nil {
		return Result{}, explain(err, &req, hide)
	}
	return result, nil
}

func (b *Builder) build(ctx context.Context, req *Request, log *progress) (Result, error) {
	refs, err := req.refs()
	if err != nil {
		return Result{}, err
	}
	src, err := open(req)
	if err != nil {
		return Result{}, err
	}
	defer src.close()
	status := make(chan *client.SolveStatus)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for s := range status {
			log.update(s)
		}
		log.end()
	}()
	resp, err := b.daemon.Solve(ctx, b.solveOpt(req, src, refs), status)
	<-printed
	if err != nil {
		return Result{}, &solveError{err: err, source: src}
	}
	result := Result{Digest: resp.ExporterResponse[exptypes.ExporterImageDigestKey]}
	dgst, err := digest.Parse(result.Digest)
	if err != nil {
		return Result{}, fmt.Errorf("the builder answered no digest: %w", err)
	}
	result.Size = b.daemon.Size(ctx, dgst)
	log.printf("Built %s (%s)\n", result.Digest, bytesText(result.Size))
	if req.DryRun {
		log.printf("Dry run: not pushed\n")
		return result, nil
	}
	result.Refs = refs
	for _, ref := range refs {
		log.printf("Pushed %s\n", ref)
	}
	return result, nil
}

func (b *Builder) solveOpt(req *Request, src *sources, refs []string) client.SolveOpt {
	scope := orDefault(req.Scope, identity.NewID())
	attrs := map[string]string{
		"filename": src.name,
		// A syntax directive would otherwise have its front end pulled and run; open has checked it.
		"cmdline": "builtin",
		"target":  req.Target,
	}
	for name, value := range req.Args {
		attrs["build-arg:"+name] = value
	}
	for name, value := range req.Labels {
		attrs["label:"+name] = value
	}
	attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = scope
	if req.NoCache {
		attrs["no-cache"] = ""
	}
	if req.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	export := client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{
		string(exptypes.OptKeyOCITypes): "true",
	}}
	if !req.Epoch.IsZero() {
		attrs["build-arg:SOURCE_DATE_EPOCH"] = strconv.FormatInt(req.Epoch.Unix(), 10)
		export.Attrs[string(exptypes.OptKeyRewriteTimestamp)] = "true"
	}
	if !req.DryRun {
		export.Attrs[string(exptypes.OptKeyName)] = strings.Join(refs, ",")
		export.Attrs[string(exptypes.OptKeyPush)] = "true"
		export.Attrs[string(exptypes.OptKeyInsecure)] = strconv.FormatBool(req.Insecure)
	}
	opt := client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   map[string]fsutil.FS{"context": src.context, "dockerfile": src.dockerfile},
		SharedKey:     scope,
		Session:       []session.Attachable{b.daemon.Logins(req.Auths)},
		Exports:       []client.ExportEntry{export},
	}
	if req.HostNetwork {
		opt.AllowedEntitlements = []string{"network.host"}
	}
	for _, ref := range req.CacheFrom {
		opt.CacheImports = append(opt.CacheImports, client.CacheOptionsEntry{
			Type:  "registry",
			Attrs: map[string]string{"ref": ref, "registry.insecure": strconv.FormatBool(req.Insecure)},
		})
	}
	if len(req.CacheFrom) > 0 && !req.DryRun {
		// Who reuses layers of pushed images wants this one to be reused, for which it must say how they were made.
		opt.CacheExports = []client.CacheOptionsEntry{{Type: "inline"}}
	}
	return opt
}

// hider replaces secrets.
type hider struct{ replacer *strings.Replacer }

func newHider(secrets []string) hider {
	unique := map[string]bool{}
	for _, s := range secrets {
		for line := range strings.Lines(s) { // the log is written by lines
			if line = strings.TrimSpace(line); len(line) > 2 {
				unique[line] = true
			}
		}
	}
	// Longer ones first, so that none is left half shown where one contains another.
	sorted := slices.SortedFunc(maps.Keys(unique), func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range sorted {
		pairs = append(pairs, s, "******")
	}
	return hider{strings.NewReplacer(pairs...)}
}

func (h hider) hide(s string) string { return h.replacer.Replace(s) }

func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}
