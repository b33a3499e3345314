package kube

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errEnded says that a watch ended before anything came, so that there is no version to go on from.
var errEnded = errors.New("the watch ended")

// Follow calls changed with the metadata of each object of a kind that is made, changed or deleted, and then gone, in a
// namespace (in all, or without any, if it is empty), until ctx is done or something goes wrong, which it returns. It calls started when
// nothing that happens from then on is missed. Nothing is kept in memory. Changed is not called concurrently.
func (c *Client) Follow(ctx context.Context, kind schema.GroupVersionKind, namespace string, started func(), changed func(object *metav1.PartialObjectMetadata, gone bool)) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	// Only for the version to start from.
	if err := c.Objects.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
		return err
	}
	version := list.ResourceVersion
	list.Items = nil
	for first := true; ; first = false {
		stream, err := c.Objects.Watch(ctx, list, client.InNamespace(namespace), &client.ListOptions{
			Raw: &metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true},
		})
		if err != nil {
			return err
		}
		if first {
			started()
		}
		last, err := drain(ctx, stream, changed)
		switch {
		case err != nil:
			return err
		case last == "": // the API server ends watches now and then, but not at once
			return errEnded
		}
		version = last
	}
}

// drain reads a watch to its end, and returns the last version that it told.
func drain(ctx context.Context, stream watch.Interface, changed func(object *metav1.PartialObjectMetadata, gone bool)) (version string, err error) {
	defer stream.Stop()
	for {
		var event watch.Event
		var open bool
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case event, open = <-stream.ResultChan():
		}
		if !open {
			return version, ctx.Err()
		}
		if event.Type == watch.Error {
			return version, apierrors.FromObject(event.Object)
		}
		object, ok := event.Object.(*metav1.PartialObjectMetadata)
		if !ok {
			return version, fmt.Errorf("the API server tells of a %T in a watch of metadata", event.Object)
		}
		version = object.ResourceVersion
		if event.Type != watch.Bookmark {
			changed(object, event.Type == watch.Deleted)
		}
	}
}
