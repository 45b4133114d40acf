// Writes tfjs_outputs.json: what TensorFlow.js itself makes of fixed images, forty values a tensor.
// npm install @tensorflow/tfjs@4.22.0; node tfjs_outputs.cjs ENCODERS > tfjs_outputs.json
const tf = require('@tensorflow/tfjs');
const fs = require('fs');
const path = require('path');
const folder = process.argv[2];
const wave = (shape, low, high) => {
  const num = shape.reduce((a, b) => a * b);
  const values = Float32Array.from({length: num}, (_, i) => low + (high - low) * (0.5 + 0.5 * Math.sin(0.001 * i * (1 + (i % 3)))));
  return tf.tensor(values, shape);
};
const sample = (t, num = 40) => {
  const values = Array.from(t.dataSync());
  const step = Math.max(1, Math.floor(values.length / num));
  return values.filter((_, i) => i % step === 0).slice(0, num);
};
async function main() {
  await tf.setBackend('cpu');
  const nsfw = path.resolve(folder, 'mobilenet-v2');
  const json = require(path.join(nsfw, 'model.min.js'));
  const shards = [1, 2].map((i) => Buffer.from(require(path.join(nsfw, `group1-shard${i}of2.min.js`)), 'base64'));
  const whole = Buffer.concat(shards);
  const bytes = whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length);
  const load = (topology, buffer) => tf.loadGraphModel(tf.io.fromMemory({
    modelTopology: topology.modelTopology, weightData: buffer, format: 'graph-model',
    weightSpecs: topology.weightsManifest.flatMap((group) => group.weights),
  }));
  const found = {};
  const mobile = await load(json, bytes);
  const p = 'StatefulPartitionedCall/sequential/keras_layer/StatefulPartitionedCall/StatefulPartitionedCall/StatefulPartitionedCall/predict/MobilenetV2/';
  for (const name of [p + 'expanded_conv_5/add', p + 'Conv_1/Relu6', 'Identity']) {
    found[name.replace(p, '')] = sample(mobile.execute(wave([1, 224, 224, 3], 0, 1), name));
  }
  const human = path.resolve(folder, 'centernet');
  const centernet = JSON.parse(fs.readFileSync(path.join(human, 'centernet.json')));
  const raw = fs.readFileSync(path.join(human, 'centernet.bin'));
  const detector = await load(centernet, raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
  for (const name of ['tower_0/CenternetHead/centernet_cls_output/BiasAdd']) {
    found[name] = sample(detector.execute(wave([1, 512, 512, 3], 0, 255), name));
  }
  console.log(JSON.stringify(found));
}
main();
