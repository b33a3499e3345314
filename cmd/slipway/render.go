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
)

// manifestFlags say which manifests are meant and what their images are.
type manifestFlags struct {
	root      string
	namespace string
	images    []string
}

func (f *manifestFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.root, "root", "", "folder that nothing is read outside of (default: the git repository, or the working directory)")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "namespace of objects that name none")
	flags.StringArrayVar(&f.images, "image", nil, "use the reference for the images of that name: `name=reference`; may be repeated")
}

// source opens the root that the flags name, and returns what to render in it. The caller closes the root.
func (f *manifestFlags) source(paths []string) (manifest.Source, error) {
	images, err := f.named()
	if err != nil {
		return manifest.Source{}, err
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
	relative := make([]string, len(paths))
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return manifest.Source{}, fmt.Errorf("find %s: %w", p, err)
		}
		rel, err := filepath.Rel(dir, abs)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return manifest.Source{}, fault.New(fault.Invalid, "%s is outside of %s; name a folder that has both with --root", p, dir)
		}
		relative[i] = filepath.ToSlash(rel)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return manifest.Source{}, fault.New(fault.Invalid, "open the folder of the manifests: %w", err)
	}
	return manifest.Source{
		Root:      root,
		Paths:     relative,
		Namespace: f.namespace,
		Images:    manifest.Images{Named: images},
	}, nil
}

// named returns the images by name.
func (f *manifestFlags) named() (map[string]string, error) {
	images := map[string]string{}
	for _, image := range f.images {
		name, ref, ok := strings.Cut(image, "=")
		if !ok || name == "" || ref == "" {
			return nil, fault.New(fault.Invalid, "--image %s: write it as name=reference", image)
		}
		if _, twice := images[name]; twice {
			return nil, fault.New(fault.Invalid, "--image %s: %s is there twice", image, name)
		}
		images[name] = ref
	}
	return images, nil
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
	cmd := &cobra.Command{
		Use:   "render PATH...",
		Short: "Print the Kubernetes objects that manifests give",
		Long: `Print the Kubernetes objects that manifests give, as YAML, without a cluster.

PATH is a file, a folder, or a pattern in quotes (** stands for any number of folders). A folder with a kustomization
is rendered by Kustomize. What is wrong is printed as "file:line:column: message", and render exits with 1.`,
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := flags.source(args)
			if err != nil {
				return err
			}
			defer source.Root.Close()
			rendered, err := manifest.Render(cmd.Context(), source)
			if err != nil {
				return err
			}
			for _, pin := range rendered.Pins {
				fmt.Fprintln(cmd.ErrOrStderr(), pin)
			}
			return manifest.Write(cmd.OutOrStdout(), rendered.Objects)
		},
	}
	flags.register(cmd)
	return cmd
}
