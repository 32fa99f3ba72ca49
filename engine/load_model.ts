/**
 * Brings a model's weights into the native library.
 *
 * @module
 */

import { STATUS } from "../ffi/enums.ts";
import { type Library, NativeError } from "../ffi/library.ts";
import { NativeModel } from "../ffi/native_model.ts";
import type { TensorSource } from "../models/types.ts";
import { computeDtype } from "./compute_dtype.ts";
import type { EngineSettings, WorkerModel } from "./messages.ts";

/**
 * Reads all tensors, file by file in the order of their offsets, as a disk likes it.
 *
 * @param onProgress Told how many of the files' bytes have been read.
 * @throws {NativeError} A tensor does not fit the model, or the weights do not fit the memory.
 */
export function loadModel(
  library: Library,
  model: Pick<WorkerModel, "paths" | "config" | "tensors">,
  settings: Pick<EngineSettings, "maxModelLen" | "layerKvDtypes" | "numThreads" | "quantization">,
  onProgress: (doneBytes: number, totalBytes: number) => void,
): NativeModel {
  const { maxModelLen, layerKvDtypes, numThreads, quantization } = settings;
  const layers = model.config.layers.map((layer, i) => ({ ...layer, kvDtype: layerKvDtypes[i] ?? undefined }));
  const config = { ...model.config, maxModelLen, layers, computeDtype: computeDtype(model.config, model.tensors) };
  const nativeModel = new NativeModel(library, config, { numThreads, quantization });
  const totalBytes = model.tensors.reduce((sum, tensor) => sum + tensor.sizeBytes, 0);
  try {
    const files = model.paths.map((path) => nativeModel.addFile(path));
    let doneBytes = 0;
    for (const tensor of model.tensors.toSorted(byPlace)) {
      nativeModel.loadTensor({ ...tensor, file: tensor.file === null ? null : files[tensor.file]! });
      doneBytes += tensor.sizeBytes;
      onProgress(doneBytes, totalBytes);
    }
    nativeModel.finish();
    return nativeModel;
  } catch (error) {
    nativeModel.close();
    if (!(error instanceof NativeError) || error.status !== STATUS.OUT_OF_MEMORY) throw error;
    const { name, memoryFreeBytes } = library.deviceInfo();
    const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
    throw new NativeError(
      `The weights (${gib(totalBytes)} in their files) do not fit the memory of ${name}, of which ` +
        `${gib(memoryFreeBytes)} are free: ${error.message}`,
      error.status,
    );
  }
}

function byPlace(a: TensorSource, b: TensorSource): number {
  return (a.file ?? -1) - (b.file ?? -1) || a.offsetBytes - b.offsetBytes;
}
