package main

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"slipway/internal/engine"
	"slipway/internal/fault"
	"slipway/internal/registry"
	"slipway/internal/remote"
)

// mirrorOptions are the flags of `slipway server` for images of other registries.
type mirrorOptions struct {
	upstreams []string
	loginFile string
	fresh     time.Duration
	quota     string
	// listen is where images of docker.io are for everybody; empty for nowhere.
	listen string
}

func (o *mirrorOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.upstreams, "mirror-upstream", []string{"docker.io"}, `registry whose images are fetched when they are asked for, and kept below mirror/; "" for none`)
	flags.StringVar(&o.loginFile, "mirror-login-file", "", "Docker configuration (config.json) with logins for those registries")
	flags.DurationVar(&o.fresh, "mirror-fresh", time.Hour, "how long a fetched tag is served before its registry is asked again")
	flags.StringVar(&o.listen, "mirror-listen", "", "address where everybody may pull Docker Hub's images through the mirror, for dockerd's --registry-mirror (default: none)")
	flags.StringVar(&o.quota, "mirror-quota", "50Gi", "bytes that fetched images may have; 0 for any number")
}

// open makes of the flags what the registry needs. Insecure are the hosts that are spoken to over plain HTTP.
func (o *mirrorOptions) open(insecure []string) (registry.Mirror, error) {
	mirror := registry.Mirror{Fresh: o.fresh}
	for _, host := range o.upstreams {
		if host == "" {
			continue
		}
		if strings.ContainsAny(host, "/_ ") {
			return mirror, fault.New(fault.Invalid, "--mirror-upstream %q is not the host of a registry, such as docker.io or registry.example.com:5000", host)
		}
		mirror.Hosts = append(mirror.Hosts, strings.ToLower(host))
	}
	quota, err := resource.ParseQuantity(o.quota)
	if err != nil || quota.Sign() < 0 {
		return mirror, fault.New(fault.Invalid, "--mirror-quota %q is not a number of bytes, such as 50Gi", o.quota)
	}
	mirror.Quota = quota.Value()
	var logins []engine.Auth
	if o.loginFile != "" {
		data, err := os.ReadFile(o.loginFile)
		if err == nil {
			logins, err = engine.ParseDockerConfig(data)
		}
		if err != nil {
			return mirror, fault.New(fault.Invalid, "--mirror-login-file %s: %w", o.loginFile, err)
		}
	}
	mirror.Client = remote.New(remote.Options{
		Insecure: insecure,
		Login: func(host string) (string, string, error) {
			if i := slices.IndexFunc(logins, func(a engine.Auth) bool { return a.Host == host }); i >= 0 {
				return logins[i].Username, logins[i].Password, nil
			}
			return "", "", nil
		},
	})
	return mirror, nil
}
