package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/manifest/sandbox"
)

// manifestFlags say which manifests are meant and what their images are.
type manifestFlags struct {
	root      string
	namespace string
	images    []string
	variables []string
	values    []string
	set       []string
	setString []string
	release   string
}

func (f *manifestFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.root, "root", "", "folder that nothing is read outside of (default: the git repository, or the working directory)")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "namespace of objects that name none")
	flags.StringArrayVar(&f.images, "image", nil, "use the reference for the images of that name: `name=reference`; may be repeated")
	flags.StringArrayVar(&f.variables, "var", nil, "fill in a variable: `NAME=value`; may be repeated")
	flags.StringArrayVar(&f.values, "values", nil, "`file` with values for Helm charts; may be repeated, and later ones win")
	flags.StringArrayVar(&f.set, "set", nil, "set one value for Helm charts: `path=value`; numbers, true, false and null are what they look like; may be repeated")
	flags.StringArrayVar(&f.setString, "set-string", nil, "as --set, but the value is text: `path=value`")
	flags.StringVar(&f.release, "release-name", "", "name of the release in Helm charts (default: that of the chart)")
}

// renderSandbox renders in a process of its own.
func renderSandbox() sandbox.Sandbox { return sandbox.Sandbox{Args: []string{"render-process"}} }

// newRenderProcessCommand is that process. Nobody types it.
func newRenderProcessCommand() *cobra.Command {
	return &cobra.Command{
		Use: "render-process", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return sandbox.Serve(os.Stdin, os.Stdout) },
	}
}

// source opens the root that the flags name, and returns what to render in it. The caller closes the root.
func (f *manifestFlags) source(paths []string) (manifest.Source, error) {
	s := manifest.Source{Namespace: f.namespace, Charts: manifest.Charts{Release: f.release}}
	var err error
	for flag, to := range map[string]struct {
		given []string
		to    *map[string]string
	}{
		"image":      {f.images, &s.Images.Named},
		"var":        {f.variables, &s.Variables},
		"set":        {f.set, &s.Charts.Set},
		"set-string": {f.setString, &s.Charts.SetText},
	} {
		if *to.to, err = pairs(flag, to.given); err != nil {
			return manifest.Source{}, err
		}
	}
	for name, ref := range s.Images.Named {
		if ref == "" {
			return manifest.Source{}, fault.New(fault.Invalid, "--image %s=: the reference is missing", name)
		}
	}
	dir := f.root
	if dir == "" {
		if dir, err = repository(); err != nil {
			return manifest.Source{}, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return manifest.Source{}, fmt.Errorf("find the folder %s: %w", f.root, err)
	}
	if s.Paths, err = below(dir, paths); err != nil {
		return manifest.Source{}, err
	}
	if s.Charts.Values, err = below(dir, f.values); err != nil {
		return manifest.Source{}, err
	}
	if s.Root, err = os.OpenRoot(dir); err != nil {
		return manifest.Source{}, fault.New(fault.Invalid, "open the folder of the manifests: %w", err)
	}
	return s, nil
}

// below returns paths, which are relative to the working directory, relative to dir.
func below(dir string, paths []string) ([]string, error) {
	relative := make([]string, len(paths))
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", p, err)
		}
		rel, err := filepath.Rel(dir, abs)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, fault.New(fault.Invalid, "%s is outside of %s; name a folder that has both with --root", p, dir)
		}
		relative[i] = filepath.ToSlash(rel)
	}
	return relative, nil
}

// pairs reads the values of a flag that is name=value.
func pairs(flag string, given []string) (map[string]string, error) {
	values := map[string]string{}
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fault.New(fault.Invalid, "--%s %s: write it as name=value", flag, pair)
		}
		if _, twice := values[name]; twice {
			return nil, fault.New(fault.Invalid, "--%s %s: %s is there twice", flag, pair, name)
		}
		values[name] = value
	}
	return values, nil
}

// repository returns the folder of the git repository that the working directory is in, or else the latter.
func repository() (string, error) {
	working, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	for dir := working; ; dir = filepath.Dir(dir) {
		_, err := os.Lstat(filepath.Join(dir, ".git"))
		switch {
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist), dir == filepath.Dir(dir):
			return working, nil
		}
	}
}

// newRenderCommand returns `slipway render`.
func newRenderCommand() *cobra.Command {
	var flags manifestFlags
	var kubeVersion string
	var apiVersions []string
	cmd := &cobra.Command{
		Use:   "render PATH...",
		Short: "Print the Kubernetes objects that manifests give",
		Long: `Print the Kubernetes objects that manifests give, as YAML, without a cluster.

PATH is a file, a folder, or a pattern in quotes (** stands for any number of folders). A folder with a kustomization
is rendered by Kustomize, one with a Chart.yaml by Helm, and a file that ends in .jsonnet by Jsonnet. What is wrong is
printed as "file:line:column: message", and render exits with 1.`,
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := flags.source(args)
			if err != nil {
				return err
			}
			defer source.Root.Close()
			source.Charts.KubeVersion, source.Charts.APIVersions = kubeVersion, apiVersions
			rendered, err := renderSandbox().Render(cmd.Context(), source)
			if err != nil {
				return err
			}
			for _, pin := range rendered.Pins {
				fmt.Fprintln(cmd.ErrOrStderr(), pin)
			}
			for _, note := range rendered.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "note:", note)
			}
			return manifest.Write(cmd.OutOrStdout(), rendered.Objects)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&kubeVersion, "kube-version", "", "`version` of Kubernetes that Helm charts are rendered for (default: that of Slipway's client)")
	cmd.Flags().StringArrayVar(&apiVersions, "api-versions", nil, "what the cluster serves, for Helm charts, such as `apps/v1`; may be repeated (default: Kubernetes' own)")
	return cmd
}
