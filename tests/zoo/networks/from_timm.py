"""Networks of timm, one or two a family, the smallest there is."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tests.zoo.networks.network import Network, on_images

BY_SIZE = {
    64: """
        convnext_atto convnextv2_atto cspresnet50 cspdarknet53 darknet53 densenet121 dla34 dpn48b eca_nfnet_l0
        ecaresnet26t edgenext_xx_small efficientnet_b0 efficientnet_lite0 efficientvit_b0 fbnetc_100
        focalnet_tiny_srf gcresnet33ts ghostnet_050 ghostnetv2_100 hardcorenas_a hgnetv2_b0 hrnet_w18_small
        inception_next_tiny lcnet_050 mambaout_femto mixnet_s mnasnet_small mobilenetv2_050 mobilenetv3_small_050
        mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050 nextvit_small nfnet_l0 poolformer_s12
        pvt_v2_b0 rdnet_tiny regnety_002 repghostnet_050 repvgg_a0 res2net50_26w_4s resnest14d resnet10t resnetv2_50
        rexnet_100 selecsls42 seresnext26d_32x4d skresnet18 starnet_s1 tf_efficientnetv2_b0 tinynet_e twins_svt_small
        vovnet39a xception41 caformer_s18 fastvit_t8 repvit_m1 resnet32ts coatnet_nano_rw_224
    """,
    224: """
        beit_base_patch16_224 cait_xxs24_224 coat_lite_tiny convit_tiny davit_tiny deit_tiny_distilled_patch16_224
        efficientformer_l1 efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcvit_xxtiny gmlp_s16_224
        hiera_tiny_224 inception_v4 levit_128s mixer_s16_224 mvitv2_tiny nest_tiny pit_ti_224
        resmlp_12_224 sequencer2d_s swin_tiny_patch4_window7_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
        visformer_tiny vit_tiny_patch16_224 volo_d1_224 xcit_nano_12_p16_224 maxvit_rmlp_nano_rw_256
        vit_relpos_small_patch16_224 samvit_base_patch16_224 fastvit_sa12 vitamin_small_224
    """,
    240: "crossvit_tiny_240",
    256: "swinv2_tiny_window8_256 botnet26t_256 lambda_resnet26rpt_256 halonet26t swinv2_cr_tiny_ns_224",
}
SHALLOW = {"depth": 2}
KEYS = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 192, "num_heads": 3},
    "cait_xxs24_224": SHALLOW,
    "tnt_s_legacy_patch16_224": SHALLOW,
    "vit_relpos_small_patch16_224": SHALLOW,
    "samvit_base_patch16_224": {
        "depth": 2,
        "embed_dim": 96,
        "num_heads": 3,
        "global_attn_indexes": (1,),
        "img_size": 224,
    },
    "swinv2_cr_tiny_ns_224": {"img_size": 256, "window_size": 8},
    "coatnet_nano_rw_224": {"img_size": 64},
    "maxvit_rmlp_nano_rw_256": {"img_size": 224},
}


def networks() -> list[Network]:
    """Return them."""
    return [
        Network(f"timm/{name}", _made(name), on_images(size))
        for size, names in BY_SIZE.items()
        for name in names.split()
    ]


def _made(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, **KEYS.get(name, {}))

    return build
